"""Refunds and disputes of paid top-ups.

Both are decided under the account's lock, on a `LockedTopUp`: the top-up with its refunds, disputes and grants.

- `amounts`: pure rules; which part of a top-up's credits, bonus and money belongs to a refund or dispute.
- `refund_effects`, `dispute_effects`: what a refund takes back, what a dispute freezes or takes back.
- `requests`: an operator's refund, its call to the provider, and the reconciliation of calls with an unknown outcome.
"""
