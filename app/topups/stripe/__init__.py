"""Stripe, by its own SDK: hosted checkout, saved cards, refunds, disputes, notices. Nothing else knows the SDK.

`told` turns what Stripe says into claims, purely; `provider` calls; `settings` refuses what cannot work.
"""
