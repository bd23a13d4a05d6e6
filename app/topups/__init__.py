"""Top-ups: buying credits through a payment provider, refunds, disputes, and auto top-up.

Terms:

- A *top-up* is one purchase of credits. While it is PENDING, it has no row in the ledger. When it becomes PAID, a
  TOP_UP entry and a grant are written.
- A *payment provider* takes the money: Stripe, or the *sandbox*, which takes none.
- A *provider event* is a webhook from the provider, or the provider's answer to our query. The *inbox* stores each
  event once.
- *Settlement* applies an event: the inbox row, the top-up, its entries and grants change in one transaction.
- A *refund* takes credits of a paid top-up back when the refund is requested. A *dispute* freezes credits until the
  bank decides it. Credits that must leave the account but were already spent become *debt* (`ledger.rules.debt`).
- *Auto top-up* buys credits when the balance falls below a threshold, within caps that the owner sets.

Invariants:

- A payment is credited once, even if webhook, return page and sweep all report it, in any order and repeatedly.
- Amount, currency and account of an event are compared with our own row. An event that differs is parked, not applied.
- The provider is never called inside a transaction. Every call that moves money contains a reference that we chose.
  If the outcome of a call is unknown, the provider is queried by the reference before the call is repeated. (Stripe's
  SDK may repeat a request itself, with the same idempotency key.)
- A payment always counts, even after a decline or after the top-up has expired. A decline that arrives after the
  payment changes nothing.
- Refunds and lost disputes together never take more than the top-up.
"""
