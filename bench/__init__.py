"""`make bench`: what charges, reads, live balances and a growing ledger cost, measured on this machine.

All contenders do the same work in the same run, in interleaved rounds, on one PostgreSQL with fsync on; results are
ratios between them. A *measurement* is one contender with one load and a number of clients (`server-many-64`); a
*round* takes every measurement once. The client is a process of its own, wrk where it is installed.

Not part of the application: nothing in `app` imports it.
"""
