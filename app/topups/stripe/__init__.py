"""Stripe by its own SDK: hosted checkout, saved cards, refunds, disputes, webhooks. No other package imports the SDK.

- `event_mapping`: pure; Stripe's objects and events as `Payment`, `Refund` and `Dispute`.
- `provider`: calls to Stripe and signatures of webhooks.
- `settings`: checks of the settings before the first call.
"""
