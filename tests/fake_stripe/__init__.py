"""A local stand-in of Stripe: its HTTP interface for what the product calls, with books of its own.

It does not prove itself: every request and every reply, refusals and notices too, is compared with Stripe's published
OpenAPI description (`description`, by an excerpt that `excerpting` cuts), and with what Stripe generates from it into
the types of the SDK that is installed (`shapes`); notices are signed by the SDK's own code. `books` keeps, `objects`
fills in, `server` answers.
"""

from tests.fake_stripe.server import KEY, SECRET, serve_fake_stripe, sign_event
from tests.fake_stripe.state import FakeStripe, StripeError

__all__ = ["KEY", "SECRET", "FakeStripe", "StripeError", "serve_fake_stripe", "sign_event"]
