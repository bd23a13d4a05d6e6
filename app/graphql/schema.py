"""The schema: the parts joined, and what every schema of ours must fulfil."""

from collections.abc import Iterable

import strawberry
from strawberry.printer import print_schema
from strawberry.schema.config import StrawberryConfig

from app.graphql.access import fields_without_permission, use_dict_resolvers
from app.graphql.accounts import AccountQueries
from app.graphql.agents import AgentQueries
from app.graphql.auto_top_up import AutoTopUpMutations
from app.graphql.charging import ChargingMutations
from app.graphql.descriptions import parts_without_description
from app.graphql.finishing import ReversalMutations
from app.graphql.following import AccountSubscription
from app.graphql.granting import AccountMutations
from app.graphql.holding import HoldMutations
from app.graphql.lifecycle import LifecycleMutations
from app.graphql.nodes import NodeQueries
from app.graphql.notices import NotificationMutations, NotificationSubscription
from app.graphql.prices import PriceMutations, PriceQueries
from app.graphql.refunding import RefundMutations
from app.graphql.refusals import ERROR_HANDLERS
from app.graphql.scalars import SCALARS
from app.graphql.signals import TaskSubscription
from app.graphql.tasks import TaskQueries
from app.graphql.topups import TopUpMutations, TopUpQueries
from app.graphql.trail import AuditLogQueries


class IncompleteSchema(Exception):
    """Fields that do not say what they need, or parts without a description: such a schema is not built."""


@strawberry.type(description="Everything that can be read.")
class Query(AccountQueries, AgentQueries, TaskQueries, TopUpQueries, PriceQueries, AuditLogQueries, NodeQueries):
    pass


@strawberry.type(description="Everything that changes something.")
class Mutation(
    LifecycleMutations,
    ChargingMutations,
    HoldMutations,
    ReversalMutations,
    AccountMutations,
    TopUpMutations,
    RefundMutations,
    AutoTopUpMutations,
    NotificationMutations,
    PriceMutations,
):
    pass


@strawberry.type(description="What is pushed.")
class Subscription(AccountSubscription, TaskSubscription, NotificationSubscription):
    pass


def build_schema(
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
        exception_handlers=ERROR_HANDLERS,
    )
    core = schema._schema  # graphql-core's schema has no public name in Strawberry
    if silent := fields_without_permission(core):
        raise IncompleteSchema(f"They do not say what they need: {', '.join(silent)}")
    if bare := parts_without_description(core):
        raise IncompleteSchema(f"They have no description: {', '.join(bare)}")
    use_dict_resolvers(core)
    return schema


def format_schema(schema: strawberry.Schema) -> str:
    """The schema's text, the same from every process: types by name, fields as declared."""
    return print_schema(schema) + "\n"
