"""The production checklist: what `python -m app check` verifies.

`runner.CHECKS` lists the checks in the order of the documentation. Each check runs even if others have failed. Only a
check that requires a failed one (of the database or its migrations) is skipped. Checks do not change the database. In
development, the embedded PostgreSQL may be started, and missing development keys are created.

Messages are printed on terminals and in logs. So they contain no secrets, and no URLs of the database or the key set.
They also contain no texts of exceptions of other packages, because such texts may contain secrets and URLs.
"""
