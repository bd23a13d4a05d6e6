"""Money in: top-ups, and the notices of whoever took the money.

A *top-up* is PENDING outside the ledger; only PAID makes a TOP_UP entry and its grant. Webhook and return page may settle at
the same instant: whoever flips the row (`UPDATE ... WHERE status = 'PENDING' RETURNING`) posts, the other finds it done.

Invariants: a payment is credited once, whatever tells of it and however often; amount, currency and account are compared
with our own row, never believed from a message; the provider is never called inside a transaction.
"""
