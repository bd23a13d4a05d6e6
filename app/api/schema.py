"""The schema: the parts joined, and what every schema of ours must fulfil."""

from collections.abc import Iterable
from typing import Final

import strawberry

from app.api.accounts.mutations import AccountMutations
from app.api.accounts.subscriptions import AccountSubscription
from app.api.accounts.types import AccountQueries
from app.api.audit_log import AuditLogQueries
from app.api.error_mapping import ERROR_HANDLERS
from app.api.notifications import NotificationMutations, NotificationSubscription
from app.api.prices import PriceMutations, PriceQueries
from app.api.scalars import SCALARS
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
from app.engine.global_ids import NodeQueries
from app.engine.schema import create_schema

UNLIMITED_MUTATIONS: Final = frozenset({"charge", "chargeBatch", "placeHold", "captureHold", "voidHold"})
"""Rate limits do not count them for services: a refused charge means "do not run the block", so their only limit is that
of the queue (OVERLOADED)."""


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
    """The schema of these root types. `types`: implementations of Node that no field returns. Raises: IncompleteSchema."""
    return create_schema(
        query=query,
        mutation=mutation,
        subscription=subscription,
        types=types,
        scalars=SCALARS,
        exception_handlers=ERROR_HANDLERS,
    )
