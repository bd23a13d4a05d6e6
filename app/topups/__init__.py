"""Money in: top-ups, and the notices of whoever took the money.

A *top-up* is PENDING outside the ledger; only PAID makes a TOP_UP entry and its grant. Webhook and return page may
settle at the same instant: whoever flips the row (an UPDATE that names the status it had) posts, the other finds it
done. A *notice* is what a provider tells; the *inbox* keeps each event once; the *sandbox* takes no money.

Invariants: a payment is credited once, whatever tells of it and however often; amount, currency and account are
compared with our own row, never believed from a message; the provider is never called inside a transaction.

A payment counts whenever it truly was made: one that arrives after a decline, or after the buyer gave up, is credited.
A decline that arrives after the payment changes nothing. What disagrees with our row is parked for a person.
"""
