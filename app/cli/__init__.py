"""The commands of `python -m app`.

Their arguments are in `app/__main__.py` and, for commands with subcommands, in `subcommands`. What a command
does is in a module that is imported only when the command runs, so that `--help` is fast. `connection`, `command_group`
and `error_messages` are shared by several commands. `checklist` has the checks of `check`.
"""
