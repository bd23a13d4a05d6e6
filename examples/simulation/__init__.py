"""A platform's day, played against a running server through its public API only: demo, load and acceptance at once.

Words: a *day* is the plan, made from a seed and the rate card; a *wave* are the block runs that an agent's graph
executes at once; the *tally* is what the replies said; *seen* is what the API says at the end. The day is exact when
both agree.

Invariants: the same seed and card give the same day. Every call carries the platform's own id or an idempotency key, so
each may be sent again. Nothing here imports a room of the product: what is not said by the API is not known.

It does not read the database, judge prices by the product's own rules, or use keys other than those it is given.
"""
