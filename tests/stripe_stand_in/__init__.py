"""A local stand-in of Stripe: its HTTP interface for what the product calls, with books of its own.

It does not prove itself: every request and every reply is compared with Stripe's own description of them, as Stripe's
SDK carries it in its types ("generated from our OpenAPI spec", of the very version that is installed); notices are
signed by the SDK's own code. `shapes` compares, `books` keeps, `objects` fills in, `server` answers.
"""

from tests.stripe_stand_in.books import Books, Declined
from tests.stripe_stand_in.server import KEY, SECRET, serving_stripe, signed

__all__ = ["KEY", "SECRET", "Books", "Declined", "serving_stripe", "signed"]
