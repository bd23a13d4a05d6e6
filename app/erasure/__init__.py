"""Erases a person: replaces the owner id by a pseudonym in all rows of the account. The amounts stay as they are.

The owner id is replaced in ids, after `user:` and in texts, unless a letter, a digit or `_` is next to it. An owner id
of digits only is replaced only after `user:` and as the owner, because other numbers look the same.

The signature of an entry includes that of the entry before it. So all entries from the first changed one on are signed
again. The caller must have verified the account before.

The database role must own the tables, because the application's role may not change these columns. The trigger
`reject_change` permits the changes only in a transaction that sets `credits.erased_account`.
"""
