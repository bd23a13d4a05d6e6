"""PostgreSQL: pools and transactions, set writes, row types, group commit, migrations, roles, the embedded server.

This package imports no domain package. `pools` names the modules of all Tortoise models.
"""
