"""The books: accounts, grants, entries; the only writer of balances.

Words: an *account* belongs to an owner; a *grant* is a lot of credits, and every posted credit sits in one; an *entry*
is one signed line that never changes; a *draw* says which grant paid (or got back) how much of an entry; an *operation*
is a request with an idempotency key, remembered for ever with its result; *debt* is what had to leave and was spent.

Invariants (DESIGN 9, proved by `audit`): posted = sum of entries = sum of what the grants have left; `seq` numbers an
account's entries without gap; `version` numbers its states; each entry's HMAC covers its content and the one before.

How it writes: `posting.post` locks account rows in id order (the account's lock guards everything that is the
account's), reads in a new statement, lets `rules` decide in memory, and writes everything as sets in one statement.

The ledger does not know what a task, a price or a payment is: it keeps their ids as references, and announces.
"""
