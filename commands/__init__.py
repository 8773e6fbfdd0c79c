"""One short module per subcommand, installed as `medsss_cli.commands`; `app.py` imports the one that was chosen."""
