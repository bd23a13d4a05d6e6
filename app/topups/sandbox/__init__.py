"""The provider that takes no money: a page of this server that pays, declines and disputes, for demos and tests.

It behaves as a real one would: books of its own, signed notices, answers when it is asked. It never runs in production.
"""
