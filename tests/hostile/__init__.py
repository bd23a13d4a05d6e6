"""Attacks on a real server. `make hostile` sends the full numbers, `make test` a few of each."""
