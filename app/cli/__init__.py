"""The commands of `python -m app`.

The arguments of the commands are declared in `app/__main__.py` and, for commands with subcommands, in `subcommands`.
The code of a command is in its own module, which is imported only when the command runs, so that `--help` is fast.
Several commands use `connection`, `command_group` and `error_messages`. `checklist` contains the checks of the command
`check`.
"""
