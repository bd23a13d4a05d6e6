"""The real server and people who mean it harm: `make hostile` sends the full numbers, `make test` a few of each."""
