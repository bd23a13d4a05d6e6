"""The schema: the parts joined, and what every schema of ours must fulfil."""

from collections.abc import Iterable

import strawberry
from strawberry.printer import print_schema
from strawberry.schema.config import StrawberryConfig

from app.graphql.access import resolve_plainly, undeclared
from app.graphql.accounts import AccountQueries
from app.graphql.agents import AgentQueries
from app.graphql.auto_top_up import AutoTopUpMutations
from app.graphql.charging import ChargingMutations
from app.graphql.descriptions import undescribed
from app.graphql.finishing import FinishingMutations
from app.graphql.following import FollowingSubscription
from app.graphql.granting import GrantingMutations
from app.graphql.holding import HoldingMutations
from app.graphql.lifecycle import LifecycleMutations
from app.graphql.nodes import NodeQueries
from app.graphql.notices import NoticeMutations, NoticeSubscription
from app.graphql.prices import PriceMutations, PriceQueries
from app.graphql.refunding import RefundingMutations
from app.graphql.refusals import TABLE
from app.graphql.scalars import SCALARS
from app.graphql.signals import SignalSubscription
from app.graphql.tasks import TaskQueries
from app.graphql.topups import TopUpMutations, TopUpQueries
from app.graphql.trail import TrailQueries


class Incomplete(Exception):
    """Fields that do not say what they need, or parts without a description: such a schema is not built."""


@strawberry.type(description="Everything that can be read.")
class Query(AccountQueries, AgentQueries, TaskQueries, TopUpQueries, PriceQueries, TrailQueries, NodeQueries):
    pass


@strawberry.type(description="Everything that changes something.")
class Mutation(
    LifecycleMutations,
    ChargingMutations,
    HoldingMutations,
    FinishingMutations,
    GrantingMutations,
    TopUpMutations,
    RefundingMutations,
    AutoTopUpMutations,
    NoticeMutations,
    PriceMutations,
):
    pass


@strawberry.type(description="What is pushed.")
class Subscription(FollowingSubscription, SignalSubscription, NoticeSubscription):
    pass


def build(
    *,
    query: type = Query,
    mutation: type = Mutation,
    subscription: type = Subscription,
    types: Iterable[type] = (),
) -> strawberry.Schema:
    """The schema of these roots. `types`: implementations of Node that no field names. Raises: Incomplete."""
    schema = strawberry.Schema(
        query=query,
        mutation=mutation,
        subscription=subscription,
        types=types,
        config=StrawberryConfig(scalar_map=SCALARS),
        exception_handlers=TABLE,
    )
    core = schema._schema  # graphql-core's schema has no public name in Strawberry
    if silent := undeclared(core):
        raise Incomplete(f"They do not say what they need: {', '.join(silent)}")
    if bare := undescribed(core):
        raise Incomplete(f"They have no description: {', '.join(bare)}")
    resolve_plainly(core)
    return schema


def printed(schema: strawberry.Schema) -> str:
    """The schema's text, the same from every process: types by name, fields as declared."""
    return print_schema(schema) + "\n"
