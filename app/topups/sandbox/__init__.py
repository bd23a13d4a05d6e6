"""A payment provider that takes no money, for development and tests; it refuses to start in production.

A page of this server pays, declines and disputes at the press of a button. Otherwise the sandbox behaves like a real
provider: it keeps its own tables (`sandbox_*`), sends signed events and answers queries.
"""
