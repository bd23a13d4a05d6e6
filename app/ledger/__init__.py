"""The ledger: accounts, grants, entries, holds and notifications. Only this package writes balances.

Terms: an *account* contains the credits of one owner. A *grant* is a number of credits with a source, a priority and an
expiry; every posted credit belongs to one grant. An *entry* is one signed line of an account's ledger. It changes only
if its owner is erased. A *draw* says how many credits of an entry one grant paid or received. An *operation* is a
request with an idempotency key, stored with its result. A *hold* claims credits, so that nothing else can spend them; a
*budget* is a hold for a whole task. *Debt* is credits that had to leave the account after they had been spent. A
*posting* is one transaction that changes accounts.

Invariants (checked by `app.verify`): the posted credits equal the sum of the entries, and the sum of the credits that
remain in the grants. `seq` numbers the entries of an account without gaps. `version` numbers the states of an account.
The HMAC of each entry covers its content and the HMAC of the previous entry.

To write, `posting.post` locks the account rows in the order of their ids, reads in a new statement, decides in memory
with `rules`, and writes all rows in one statement.

This package does not import `tasks`, `pricing` and `topups`. It stores ids of tasks and top-ups without reading those
tables, and notifies other packages of changes (`live`).
"""
