"""Records through a command: lines in and out, what is done already, what failed, which part is this run's."""
