"""Stripe as a payment provider: checkout on Stripe's pages, saved cards, refunds, disputes, webhooks.

- `event_mapping`: converts Stripe's objects and events to `Payment`, `Refund` and `Dispute`.
- `provider`: calls Stripe. `refusals`: translates Stripe's errors. `signatures`: verifies the signatures of webhooks.
  Only these three modules import Stripe's SDK.
- `settings`: checks the settings before the first call.
"""
