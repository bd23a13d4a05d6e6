"""Erases a person: replaces the owner id by a pseudonym in all rows of the account. The amounts stay as they are.

The owner id is replaced where it stands alone, not next to a letter, a digit or `_`: as an id, after `user:`, and in
texts. An owner id of digits only is replaced only after `user:` and as the owner, because other numbers look the same.

Entries are signed, so they are signed again from the first one that changes. The caller must have verified the account
before. The role that owns the tables is needed: the trigger `reject_change` permits changes of these columns, in a
transaction that sets `credits.erased_account`, and the application's role has no privilege to make them.
"""
