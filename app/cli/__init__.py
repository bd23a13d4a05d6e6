"""The commands of `python -m app`, one module each. A module is imported when its command runs, so `--help` is fast."""
