"""Refunds and disputes of paid top-ups.

Both are decided under the account's lock, on a `LockedTopUp`: the top-up with its refunds, disputes and grants.

- `amounts`: rules that compute which part of a top-up's credits, bonus and money belongs to a refund or dispute.
- `refund_effects`, `dispute_effects`: the credits that a refund takes back, and that a dispute freezes or takes back.
- `requests`: refunds by operators, the call to the provider, and the reconciliation of calls with an unknown outcome.
"""
