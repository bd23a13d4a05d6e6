"""Notifications to people about an account: the GraphQL type, a mutation to mark them as read, and the subscription."""

from collections.abc import AsyncGenerator
from datetime import datetime
from functools import partial
from typing import Annotated, Final

import strawberry

from app.api.context import Context, ResolverInfo, audit_context
from app.api.input_checks import check_list_length
from app.api.objects import build_from
from app.api.owner_scope import (
    readable_owners,
    require_readable_owner,
    require_writable_owner,
    writable_owners,
)
from app.api.results import mutation
from app.engine import declare, global_ids
from app.engine.global_ids import INT32, LONG
from app.engine.pagination import Connection, before_number, paginate
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.engine.subscriptions import retry_until_available
from app.errors import NotificationNotFound
from app.ledger import notifications, owner_scope
from app.ledger.notifications import NotificationKind

MAX_MARKED_READ: Final = 100
READ_LIMIT: Final = 100
"""The most notifications that a subscription reads in one query, and the most unread ones that it sends first."""

describe_enum(
    NotificationKind,
    description="The kind of a notification.",
    values={
        NotificationKind.LOW_BALANCE: "The available credits have fallen below `lowBalanceThreshold`.",
        NotificationKind.OUT_OF_CREDITS: "No credits are available, or too few for a task, which was stopped.",
        NotificationKind.SCHEDULE_SKIPPED: "Tasks of an agent with the trigger SCHEDULED or WEBHOOK do not start. Sent "
        "again only after credits were added.",
        NotificationKind.EXPIRING: "Credits will expire soon.",
        NotificationKind.AUTO_TOP_UP_BLOCKED: "Auto top-up makes no purchase.",
        NotificationKind.TOP_UP_FAILED: "A top-up was not paid.",
        NotificationKind.DISPUTED: "The buyer disputes a payment at its bank. Resolved when the dispute is decided.",
        NotificationKind.DISPUTE_LOST: "Credits were taken back, because the bank decided a dispute in the buyer's "
        "favour. Resolved if the decision is reversed.",
        NotificationKind.REFUNDED: "Credits were taken back, because a payment was refunded. Resolved if the refund "
        "fails.",
        NotificationKind.IN_DEBT: "The account owes credits. Resolved when the debt is paid.",
    },
)


@declare.type(description="A notification to a person about an account.", needs=Permission.INHERITED)
class Notification(global_ids.Node):
    kind: NotificationKind = declare.value(description="The kind.")
    message: str = declare.value(description="The text, for people.")
    agent_id: strawberry.ID | None = declare.value(description="The agent; null if it is about the account.")
    created_at: datetime = declare.value(description="When it was created.")
    read_at: datetime | None = declare.value(description="When it was marked as read or resolved. Null means unread.")
    resolved_at: datetime | None = declare.value(
        description="When its cause ended; null if it has not ended, or cannot end."
    )


@strawberry.input(description="The notifications to mark as read.")
class MarkNotificationsReadInput:
    notification_ids: list[strawberry.ID] | None = strawberry.field(
        default=None, description=f"The `id`s of 1 to {MAX_MARKED_READ} notifications. Null means all of the account."
    )
    owner_id: strawberry.ID | None = strawberry.field(default=None, description="The owner. Null means the caller.")


@declare.type(description="The notifications are marked as read.", needs=Permission.INHERITED)
class MarkNotificationsReadSuccess:
    notifications: list[Notification] = declare.value(
        description="The requested notifications, newest first; if all were requested, the newest 100 that were unread."
    )


Owner = Annotated[strawberry.ID | None, strawberry.argument(description="The owner. Null means the caller.")]


@strawberry.type(description="Mutations of notifications.")
class NotificationMutations:
    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Mark notifications as read. Marking one again changes nothing, so no idempotency key is needed.",
        errors=(NotificationNotFound,),
    )
    async def mark_notifications_read(
        self, info: ResolverInfo, input: MarkNotificationsReadInput
    ) -> MarkNotificationsReadSuccess:
        owner = require_writable_owner(info.context, input.owner_id)
        if input.notification_ids is not None:
            check_list_length(input.notification_ids, name="input.notificationIds", limit=MAX_MARKED_READ)
        account_id = await owner_scope.find_account_id(
            owner, owner_ids=writable_owners(info.context.authenticated_caller)
        )
        numbers = None if input.notification_ids is None else await _numbers(account_id, input.notification_ids)
        marked = (
            await notifications.mark_read(account_id, numbers, audit=audit_context(info))
            if account_id is not None
            else []
        )
        return MarkNotificationsReadSuccess(notifications=[to_notification(one) for one in marked])


@strawberry.type(description="Subscriptions for notifications.")
class NotificationSubscription:
    @declare.subscription(
        needs=Permission.AUTHENTICATED,
        description=f"Sends the unread notifications, oldest first, at most the newest {READ_LIMIT}; then every new "
        "one once, in order. A notification that is marked as read or resolved later is not sent again.",
    )
    async def notifications(self, info: ResolverInfo, owner_id: Owner = None) -> AsyncGenerator[Notification, None]:
        owner = require_readable_owner(info.context, owner_id)
        feed, owner_ids = info.context.state.change_feed, readable_owners(info.context.authenticated_caller)
        with feed.subscribe(owner) as changes:
            # If the account does not exist yet, the change feed reports its creation under the owner's id.
            while (
                account_id := await retry_until_available(
                    lambda: owner_scope.find_account_id(owner, owner_ids=owner_ids)
                )
            ) is None:
                await changes.wait()
        with feed.subscribe(account_id, wake_on_sweep=True) as changes:
            seen = await retry_until_available(lambda: notifications.last_notification_number(account_id))
            unread = await retry_until_available(
                lambda: notifications.list_notifications(
                    account_id, before_number=seen + 1, limit=READ_LIMIT, unread_only=True
                )
            )
            for one in reversed(unread):
                yield to_notification(one)
            while True:
                new = await retry_until_available(
                    partial(notifications.list_notifications_after, account_id, seen, READ_LIMIT)
                )
                for one in new:
                    seen = one.number
                    yield to_notification(one)
                if len(new) < READ_LIMIT:
                    await changes.wait()


def to_notification(row: notifications.Notification) -> Notification:
    return build_from(
        Notification,
        row,
        id=global_ids.encode_id("Notification", row.account_id, row.number),
        created_at=row.at,
    )


async def load_notification_page(
    account_id: int, *, first: int, after: str | None, unread_only: bool
) -> Connection[Notification]:
    """Load a page of an account's notifications, newest first."""
    return await paginate(
        "notifications",
        account_id,
        (INT32,),
        first=first,
        after=after,
        filters={"unreadOnly": unread_only},
        read=lambda limit, position: notifications.list_notifications(
            account_id,
            before_number=before_number(position, notifications.MAX_NUMBER),
            limit=limit,
            unread_only=unread_only,
        ),
        position_of=lambda row: (row.number,),
        node_of=to_notification,
    )


@global_ids.node_fetcher("Notification", LONG, INT32)
async def fetch_notification(context: Context, account_id: int, number: int) -> Notification | None:
    found = await owner_scope.find_notification(
        account_id, number, owner_ids=readable_owners(context.authenticated_caller)
    )
    return to_notification(found) if found is not None else None


async def _numbers(account_id: int | None, node_ids: list[strawberry.ID]) -> list[int]:
    """Return the numbers of the account's notifications with these ids.

    Raises: NotificationNotFound: a notification does not exist or belongs to another account.
    """
    keys: dict[strawberry.ID, tuple[int, int]] = {}
    for node_id in node_ids:
        parts = global_ids.decode_id(node_id, "Notification")
        if parts is None:
            raise NotificationNotFound(notification_id=node_id)
        keys[node_id] = parts
    # For a notification of another account, number 0 is looked up, which does not exist. So the statement is the same.
    own_id = account_id or 0
    found = await notifications.get_notifications(
        (own_id, number if owner == own_id else 0) for owner, number in keys.values()
    )
    for node_id, key in keys.items():
        if key not in found:
            raise NotificationNotFound(notification_id=node_id)
    return [number for _, number in dict.fromkeys(keys.values())]
