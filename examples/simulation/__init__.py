"""A simulated day of an agent platform, run against a server through its public API.

It is a demonstration, a load test and an acceptance test.

A *workload* is generated from a seed and the rate card: tasks, their block runs, failures and repeated requests. The
*expected state* is computed from the responses to all requests. At the end the *actual state* is read through the API.
Both must be equal.

The same seed and rate card give the same workload. Every request contains an id or an idempotency key of the platform,
so each may be sent again. Prices are computed from the rate card independently of the server. The simulation does not
read the database, and uses only the tokens that it is given.
"""
