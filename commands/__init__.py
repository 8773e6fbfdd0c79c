"""One short module per subcommand, installed as `medsss_cli.commands`. `app.py` names them as strings and imports the chosen one."""
