"""The commands of `python -m app`.

Each command has a module, which is imported only when the command runs, so that `--help` is fast. `connection`,
`command_group` and `error_messages` are shared by several commands. `checklist` has the checks of `check`.
"""
