"""The production checklist: what `python -m app check` verifies.

`runner.CHECKS` lists the checks in the order of the documentation. A check runs even if others have failed, unless it
requires one of them (the database, its migrations): then it is skipped. Checks do not change the database. In
development, the embedded PostgreSQL may be started, and missing development keys are created.

Messages are printed on terminals and in logs. They contain no secrets, no URLs of the database or the key set, and no
texts of exceptions of other packages, which may contain both.
"""
