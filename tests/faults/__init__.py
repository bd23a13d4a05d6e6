"""Faults of processes, networks and databases under load. `make faults` runs the long form, `.ci/run` a short one.

Each test starts clients, causes one fault, ends it, and then compares everything that was acknowledged with the
database. Callers must be answered within their bound, and the server must recover without a restart.
"""
