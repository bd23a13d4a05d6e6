"""What services and operators may have at once, and how often, beside what users may: bounds of their own."""

from contextlib import ExitStack

import pytest

from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine
from app.engine.limits.rate_limiter import SERVICE_OPERATIONS, SERVICE_SUBSCRIPTIONS, RateLimiter
from app.errors import RateLimited
from app.settings import Settings
from tests.engine import sample_schema
from tests.engine.sample_schema import token
from tests.engine.transports.all_transports import TRANSPORTS, Ask

pytestmark = pytest.mark.anyio

NO_RATES = {"rate_per_user": 0, "rate_per_address": 0, "rate_per_service": 0}


@pytest.mark.parametrize(
    ("what", "bound"), [("running_operation", SERVICE_OPERATIONS), ("open_subscription", SERVICE_SUBSCRIPTIONS)]
)
def test_a_service_may_have_so_many_at_once_and_not_one_more(what: str, bound: int) -> None:
    gate = RateLimiter(Settings.model_validate(NO_RATES | {"operations_per_user": 1, "subscriptions_per_user": 1}))
    begin = getattr(gate, what)
    one, another = (
        RequestContext(sample_schema.SERVICE, sample_schema.state),
        RequestContext(sample_schema.READER, sample_schema.state),
    )
    with ExitStack() as had:
        for _ in range(bound):
            had.enter_context(begin(one))
        with pytest.raises(RateLimited), begin(one):
            pass
        with begin(another):
            pass
    with begin(one):
        pass


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_operator_has_the_rate_of_services_and_is_told_when_to_come_again(transport: str) -> None:
    ask: Ask = TRANSPORTS[transport]
    gate = RateLimiter(Settings.model_validate(NO_RATES | {"rate_per_service": 1, "rate_per_user": 1}))
    execution = GraphQLEngine(
        sample_schema.schema._schema, introspection=True, compile_operations=True, rate_limiter=gate
    )
    operator = token("olga", operator=True)
    for _ in range(5):
        assert not (await ask(execution, "{ hello }", bearer=operator)).codes
    refused = await ask(execution, "{ hello }", bearer=operator)
    assert refused.codes == {"RATE_LIMITED"}
    assert not (await ask(execution, "{ hello }", bearer=token())).codes  # another's bucket
