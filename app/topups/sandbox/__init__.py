"""A payment provider that takes no money, for development and tests. It does not start in production.

A page of this server has buttons to pay, decline or dispute a payment. Otherwise the sandbox behaves like a real
provider: it has its own tables (`sandbox_*`), sends signed events and answers queries.
"""
