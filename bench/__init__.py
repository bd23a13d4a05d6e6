"""`make bench`: what a charge costs, measured on this machine and shown as ratios.

Absolute rates say more about a machine than about a server, so every contender does the same work in the same run, in
interleaved rounds, on one PostgreSQL (fsync on), and the table shows what each is of another:

- `reference`: the same charge written the usual way, one ORM transaction for each request (bench/reference.py);
- `single`: this server with the gathering of charges off (BATCH_LIMIT=1);
- `gathered`: this server as it is; `batch`: its `chargeBatch` of 100;
- `pgbench`: PostgreSQL alone, calling a function that does the least a charge can do;
- `floor`: a Starlette route that reads and writes a little JSON.

Besides: 200 block runs at once in one task, and the same inside one budget (`task`, `budget`); and how long after an
account's last credit an executor that follows the signals of another server is told (`stop`).

Words: a *measurement* is one contender at one load (`gathered-hot`); *many* is 10,000 accounts in random order, *hot*
is one account; a *round* takes every measurement once. The client is a process of its own; all of them share the
machine.
"""
