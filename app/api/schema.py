"""The schema: the parts joined, and what every schema of ours must fulfil."""

from collections.abc import Iterable

import strawberry
from strawberry.printer import print_schema
from strawberry.schema.config import StrawberryConfig

from app.api.accounts.mutations import AccountMutations
from app.api.accounts.subscriptions import AccountSubscription
from app.api.accounts.types import AccountQueries
from app.api.audit_log import AuditLogQueries
from app.api.error_mapping import ERROR_HANDLERS
from app.api.notifications import NotificationMutations, NotificationSubscription
from app.api.prices import PriceMutations, PriceQueries
from app.api.tasks.agents import AgentQueries
from app.api.tasks.charging import ChargingMutations
from app.api.tasks.holds import HoldMutations
from app.api.tasks.lifecycle import LifecycleMutations
from app.api.tasks.reversals import ReversalMutations
from app.api.tasks.subscriptions import TaskSubscription
from app.api.tasks.types import TaskQueries
from app.api.topups.auto_top_up import AutoTopUpMutations
from app.api.topups.mutations import RefundMutations
from app.api.topups.types import TopUpMutations, TopUpQueries
from app.engine.declare import fields_without_permission, use_dict_resolvers
from app.engine.global_ids import NodeQueries
from app.engine.scalars import SCALARS
from app.engine.schema import parts_without_description


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
