"""Money that goes back: refunds, which an operator asks for or a provider tells of, and disputes.

A *case* is a top-up with its refunds, disputes and grants, under the account's lock; all is decided on it. `shares`:
pure, how much of what. `refunding` and `disputes` decide, `refunds` asks the provider, `refund_rows` has the rows.
"""
