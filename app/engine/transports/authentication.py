"""Authentication of a request, limited by the rate of its client address. All transports use it."""

from functools import partial
from typing import Any

from app.auth.authenticator import Authenticator, has_service_key
from app.auth.caller import Caller
from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine
from app.errors import RejectedCredential


async def authenticate(
    engine: GraphQLEngine, authenticator: Authenticator, context: RequestContext[Any], authorization: str | None
) -> Caller | None:
    """Return the caller, or None if there is no Authorization header.

    A token is not verified while the rate of the client address is used up. A service key that was accepted recently is
    never rate limited here. Any other service key is read from the database only if the rate of the address allows it.
    A rejected credential counts against the rate of the address.
    Raises: RateLimited, RejectedCredential; Unavailable: no token can be verified at the moment.
    """
    if authorization is not None and not has_service_key(authorization):
        engine.check_address_rate(context)
    try:
        return await authenticator.authenticate(authorization, partial(engine.record_key_read, context))
    except RejectedCredential:
        engine.record_failure(context)
        raise
