"""The ledger: accounts, grants, entries, holds and notifications. The only writer of balances.

Terms: an *account* belongs to an owner. A *grant* is a number of credits with a source, a priority and an expiry; every
posted credit belongs to one. An *entry* is one signed line that never changes. A *draw* says which grant paid, or got
back, how much of an entry. An *operation* is a request with an idempotency key, kept with its result. A *hold* claims
credits; a *budget* is a hold for a whole task. *Debt* had to leave the account but was already spent.

Invariants (proved by `app.verify`): posted = sum of the entries = sum of what the grants have left. `seq` numbers the
entries of an account without gap; `version` numbers its states. The HMAC of each entry covers its content and the
previous entry.

How it writes: `posting.post` locks the account rows in id order, reads in a new statement, lets the pure `rules` decide
in memory, and writes everything as sets in one statement.

The ledger knows nothing of tasks, prices and payments. It stores their ids as references and notifies of changes.
"""
