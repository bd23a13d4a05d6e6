"""A fake Stripe: an HTTP server with the calls that the product uses, and state of its own.

The fake is checked itself: every request and reply, errors and events included, is compared with Stripe's published
OpenAPI description (`openapi_checks`, with an excerpt made by `openapi_excerpt`) and with the types of the installed
SDK (`sdk_type_checks`). Events are signed by the SDK's own code. `state` has the objects, `objects` their default
fields, `server` the routes.
"""

from tests.fake_stripe.server import KEY, SECRET, serve_fake_stripe, sign_event
from tests.fake_stripe.state import FakeStripe, StripeError

__all__ = ["KEY", "SECRET", "FakeStripe", "StripeError", "serve_fake_stripe", "sign_event"]
