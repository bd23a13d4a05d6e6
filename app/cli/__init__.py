"""What `python -m app` does, one module per command. Each is imported only when it runs, so that `--help` is quick."""
