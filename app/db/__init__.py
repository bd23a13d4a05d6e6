"""PostgreSQL: pools and transactions, set writes, row types, group commit, migrations, roles, the embedded server.

Nothing here knows an account, a task or a payment. `pools` lists the Tortoise models of all packages by name.
"""
