"""`make bench`: what charges, reads, live balances and a growing ledger cost, measured on this machine.

All contenders do the same work in the same run, in interleaved rounds, on one PostgreSQL with fsync on. The results are
ratios between contenders. A *contender* is this server with certain settings, or a reference such as pgbench. A
*measurement* is one contender with one load and a number of clients (`server-many-64`); a *round* takes every
measurement once. The client is a separate process: wrk, if it is installed, or `bench.http_client`.

Not part of the application: nothing in `app` imports it.
"""
