"""The GraphQL schema: the root types, and the checks that every field has a permission and every part a description."""

from collections.abc import Iterable
from typing import Final

import strawberry

from app.api.accounts.account import AccountQueries
from app.api.accounts.mutations import AccountMutations
from app.api.accounts.subscriptions import AccountSubscription
from app.api.audit_log import AuditLogQueries
from app.api.error_types import ERROR_TYPES
from app.api.notifications import NotificationMutations, NotificationSubscription
from app.api.prices import PriceMutations, PriceQueries
from app.api.scalars import SCALARS
from app.api.tasks.agents import AgentQueries
from app.api.tasks.charging import ChargingMutations
from app.api.tasks.holds import HoldMutations
from app.api.tasks.lifecycle import LifecycleMutations
from app.api.tasks.queries import TaskQueries
from app.api.tasks.reversals import ReversalMutations
from app.api.tasks.subscriptions import TaskSubscription
from app.api.topups.mutations import TopUpMutations, TopUpQueries
from app.api.webhook_endpoints import WebhookMutations, WebhookQueries
from app.engine.global_ids import NodeQueries
from app.engine.schema import create_schema

UNLIMITED_MUTATIONS: Final = frozenset({"charge", "chargeBatch", "placeHold", "captureHold", "voidHold"})
"""Mutations of services that rate limits do not count, because a refused charge means "do not run the block". Only the
length of the charge queue limits them (OVERLOADED)."""


@strawberry.type(description="All queries.")
class Query(
    AccountQueries,
    AgentQueries,
    TaskQueries,
    TopUpQueries,
    PriceQueries,
    AuditLogQueries,
    WebhookQueries,
    NodeQueries,
):
    pass


@strawberry.type(description="All mutations.")
class Mutation(
    LifecycleMutations,
    ChargingMutations,
    HoldMutations,
    ReversalMutations,
    AccountMutations,
    TopUpMutations,
    NotificationMutations,
    PriceMutations,
    WebhookMutations,
):
    pass


@strawberry.type(description="All subscriptions.")
class Subscription(AccountSubscription, TaskSubscription, NotificationSubscription):
    pass


def build_schema(
    *,
    query: type = Query,
    mutation: type = Mutation,
    subscription: type = Subscription,
    types: Iterable[type] = (),
) -> strawberry.Schema:
    """Build the schema of these root types. `types` are implementations of Node that no field returns.

    Raises: IncompleteSchema.
    """
    return create_schema(
        query=query,
        mutation=mutation,
        subscription=subscription,
        types=types,
        scalars=SCALARS,
        exception_handlers=tuple(ERROR_TYPES.values()),
    )
