"""`make bench`: what a charge costs, measured on this machine and shown as ratios.

Absolute rates say more about a machine than about a server, so every contender does the same work in the same run, in
interleaved rounds, on one PostgreSQL (fsync on), and the table shows what each is of another:

- `reference`: the same charge written the usual way, one ORM transaction for each request (bench/reference.py), on
  Strawberry's defaults; `cached`: the same with its parser and validation caches;
- `single`: this server with the gathering of charges off (BATCH_LIMIT=1);
- `plain`: this server with its plans off (COMPILE_OPERATIONS=off): graphql-core's own executor carries out each document;
- `gathered`: this server as it is; `batch`: its `chargeBatch` of 100;
- `pgbench`: PostgreSQL alone, calling a function that does the least a charge can do, or reading one row by its key;
- `stock`: this server's schema and resolvers on Strawberry's own view (bench/stock_pages.py);
- `floor`: a Starlette route that reads and writes a little JSON.

Besides: 200 block runs at once in one task, and the same inside one budget (`task`, `budget`); and how long after an
account's last credit an executor that follows the signals of another server is told (`stop`).

Words: a *measurement* is one contender at one load (`gathered-hot`), with as many clients as is usual or as its name
says (`gathered-many-256`); *many* is 10,000 accounts in random order, *hot* is one account; *balance* and *library* are
read: what the header of every page asks for, and a page of 50 tasks with their costs; a *round* takes every measurement
once. The client is a process of its own, wrk where it is installed (bench/client.py); all of them share the machine.
"""
