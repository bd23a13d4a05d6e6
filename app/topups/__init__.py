"""Money in: top-ups, and the notices of whoever took the money.

A *top-up* is PENDING outside the ledger; only PAID makes a TOP_UP entry and its grant. Webhook and return page may
settle at the same instant: whoever flips the row (an UPDATE that names the status it had) posts, the other finds it
done. A *notice* is what a provider tells; the *inbox* keeps each event once; the *sandbox* takes no money.

A *refund* takes credits of a paid top-up back when it is asked for, and a *dispute* freezes them until it is decided;
what of them was spent is *debt* (`ledger.debt`). A *case* is a top-up with all of these, on which both are decided
under the account's lock; the top-up's own figures follow from them.

In this room: `purchase` begins and confirms, `settling` does what is told, with the `inbox`, `retries` and the `sweep`
around it; `receipts` are shown. In rooms of their own: `giving_back` (refunds, disputes), `refills` (auto top-up), and
the providers `sandbox` and `stripe`: `choice` picks one by settings, and `webhooks` serves the sandbox's pages.

Invariants: a payment is credited once, whatever tells of it and however often; amount, currency and account are
compared with our own row, never believed from a message; the provider is never called inside a transaction; what
refunds and lost disputes take is never more than the top-up, and is what its entries say in credits and debt.

A payment counts whenever it truly was made: one that arrives after a decline, or after the buyer gave up, is credited.
A decline that arrives after the payment changes nothing. What disagrees with our row is parked for a person.
"""
