"""Notices: what a person is told about an account, read, pushed and marked read; and the threshold of one of them."""

from collections.abc import AsyncGenerator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import strawberry

from app.api.accounts.balance import Balance, account_node_id, to_balance
from app.api.audit_context import audit_context
from app.api.context import Context, ResolverInfo
from app.api.error_types import IdempotencyConflictError, InvalidInputError, NotificationNotFoundError
from app.api.input_checks import check_ids, check_list_length
from app.api.owner_scope import check_can_change, readable_owners, resolve_owner, writable_owners
from app.api.scalars import Credits
from app.engine import declare, global_ids
from app.engine.pagination import Connection, build_connection, check_first, decode_cursor, encode_cursor
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.engine.subscriptions import retry_until_available
from app.errors import Forbidden, NotificationNotFound
from app.ledger import low_balance, notifications, owner_scope
from app.ledger.notifications import NotificationKind

if TYPE_CHECKING:
    from app.api.accounts.types import Account

LazyAccount: TypeAlias = Annotated["Account", strawberry.lazy("app.api.accounts.types")]

MAX_MARKED_READ: Final = 100
_READ_AT_ONCE: Final = 100
"""How many notices a subscription reads at once, and how many unread ones it begins with at most."""

describe_enum(
    NotificationKind,
    description="What a notice is about.",
    values={
        NotificationKind.LOW_BALANCE: "Less than the account's threshold is available; told at each fall below it.",
        NotificationKind.OUT_OF_CREDITS: "Nothing is available, or too little for an agent, which was stopped.",
        NotificationKind.SCHEDULE_SKIPPED: "Scheduled runs of an agent do not start; told once until credits come.",
        NotificationKind.EXPIRING: "Credits will expire; told some days ahead.",
        NotificationKind.AUTO_TOP_UP_BLOCKED: "The automatic top-up does not buy.",
        NotificationKind.TOP_UP_FAILED: "A top-up was not paid.",
    },
)


@declare.type(description="What a person is told about an account.", needs=Permission.INHERITED)
class Notification(global_ids.Node):
    kind: NotificationKind = declare.value(description="What it is about.")
    message: str = declare.value(description="What there is to say, for people.")
    agent_id: strawberry.ID | None = declare.value(
        description="The agent that it is about; null where it is about the account."
    )
    at: datetime = declare.value(description="When it was given.")
    read_at: datetime | None = declare.value(description="When it was marked read, or cleared; null: unread.")
    resolved_at: datetime | None = declare.value(
        description="When what it says was over, because credits came; null: it still holds, or nothing ends it."
    )


@strawberry.input(description="Notices that somebody has seen.")
class MarkNotificationsReadInput:
    notification_ids: list[strawberry.ID] | None = strawberry.field(
        default=None, description=f"Their `id`s, 1 to {MAX_MARKED_READ}; null: all of the account's."
    )
    owner_id: strawberry.ID | None = strawberry.field(default=None, description="Whose account; null: one's own.")


@strawberry.input(description="The account's own threshold.")
class SetLowBalanceThresholdInput:
    owner_id: strawberry.ID | None = strawberry.field(default=None, description="Whose account; null: one's own.")
    credits: Credits = strawberry.field(description="With less available than this the balance shows as LOW; 0: never.")
    idempotency_key: str = strawberry.field(description="The same key and request again changes nothing more.")


@declare.type(description="The notices are marked read.", needs=Permission.INHERITED)
class MarkNotificationsReadSuccess:
    notifications: list[Notification] = declare.value(
        description="Those that were named, as they stand; or the newest 100 of all that were unread. Newest first."
    )


@declare.type(description="The threshold is set.", needs=Permission.INHERITED)
class SetLowBalanceThresholdSuccess:
    account: LazyAccount = declare.value(description="The account.")
    balance: Balance = declare.value(description="The balance now, with the status that follows.")
    replayed: bool = declare.value(description="Whether the same request had set it before.")


MarkNotificationsReadResult = Annotated[
    MarkNotificationsReadSuccess | NotificationNotFoundError,
    strawberry.union("MarkNotificationsReadResult", description="Marked, or why not."),
]
SetLowBalanceThresholdResult = Annotated[
    SetLowBalanceThresholdSuccess | InvalidInputError | IdempotencyConflictError,
    strawberry.union("SetLowBalanceThresholdResult", description="Set, or why not."),
]

Mark = Annotated[MarkNotificationsReadInput, strawberry.argument(description="Which notices.")]
SetThreshold = Annotated[SetLowBalanceThresholdInput, strawberry.argument(description="How many credits.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Whose notices; null: one's own.")]


@strawberry.type(description="What somebody does about notices.")
class NotificationMutations:
    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Mark notices as read, one's own or by a service. It takes no idempotency key: what is read stays "
        "as it was, so marking twice is marking once.",
    )
    async def mark_notifications_read(self, info: ResolverInfo, input: Mark) -> MarkNotificationsReadResult:
        owner = _owner_to_change(info.context, input.owner_id)
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
        return MarkNotificationsReadSuccess(notifications=[to_notification(notice) for notice in marked])

    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Choose below how many credits the balance is low, for one's own account or by a service. Each "
        "fall below it gives a notice; setting it gives none.",
    )
    async def set_low_balance_threshold(self, info: ResolverInfo, input: SetThreshold) -> SetLowBalanceThresholdResult:
        from app.api.accounts.types import Account  # noqa: PLC0415  accounts show notices

        owner = _owner_to_change(info.context, input.owner_id)
        done = await low_balance.set_low_balance_threshold(
            owner,
            input.credits,
            key=input.idempotency_key,
            actor=info.context.authenticated_caller.actor,
            owner_ids=writable_owners(info.context.authenticated_caller),
            audit=audit_context(info),
        )
        return SetLowBalanceThresholdSuccess(
            account=Account(id=account_node_id(owner), owner_id=strawberry.ID(owner), figures=done.balance),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )


@strawberry.type(description="Notices, as they are given.")
class NotificationSubscription:
    @declare.subscription(
        needs=Permission.AUTHENTICATED,
        description=f"The unread notices, oldest first, at most the {_READ_AT_ONCE} newest of them; then each new one "
        "once, in order. One that is marked read or cleared later is not sent again.",
    )
    async def notifications(self, info: ResolverInfo, owner_id: Owner = None) -> AsyncGenerator[Notification, None]:
        check_ids(ownerId=owner_id)
        owner = resolve_owner(info.context, owner_id)
        if owner is None:
            raise Forbidden("You may not look at that owner's notices.")
        feed, seen_owners = info.context.state.change_feed, readable_owners(info.context.authenticated_caller)
        with feed.subscribe(owner) as made:
            # Nothing was ever written for this owner, or so it may be: the first write is announced by its name.
            while (
                account_id := await retry_until_available(
                    lambda: owner_scope.find_account_id(owner, owner_ids=seen_owners)
                )
            ) is None:
                await made.wait()
        with feed.subscribe(account_id, wake_on_sweep=True) as watch:
            seen = await retry_until_available(lambda: notifications.last_notification_number(account_id))
            unread = await retry_until_available(
                lambda: notifications.list_notifications(
                    account_id, before_number=seen + 1, limit=_READ_AT_ONCE, unread_only=True
                )
            )
            for notice in reversed(unread):
                yield to_notification(notice)
            while True:
                found = await retry_until_available(
                    partial(notifications.list_notifications_after, account_id, seen, _READ_AT_ONCE)
                )
                for notice in found:
                    seen = notice.number
                    yield to_notification(notice)
                if len(found) < _READ_AT_ONCE:
                    await watch.wait()


def to_notification(notice: notifications.Notification) -> Notification:
    """A notice as GraphQL shows it."""
    return Notification(
        id=global_ids.encode_id("Notice", notice.account_id, notice.number),
        kind=notice.kind,
        message=notice.message,
        agent_id=strawberry.ID(notice.agent_id) if notice.agent_id is not None else None,
        at=notice.at,
        read_at=notice.read_at,
        resolved_at=notice.resolved_at,
    )


async def load_notification_page(
    account_id: int, *, first: int, after: str | None, unread_only: bool
) -> Connection[Notification]:
    """An account's notices, newest first."""
    place = decode_cursor(after, "notices", account_id, shape=(int,))
    found = await notifications.list_notifications(
        account_id,
        before_number=max(0, min(place[0], notifications.MAX_NUMBER)) if place else notifications.MAX_NUMBER,
        limit=check_first(first) + 1,
        unread_only=unread_only,
    )
    return build_connection(
        found,
        first=first,
        after=after,
        cursor_of=lambda notice: encode_cursor("notices", account_id, notice.number),
        node_of=to_notification,
    )


@global_ids.node_fetcher("Notice", int, int)
async def fetch_notification(context: Context, account_id: int, number: int) -> Notification | None:
    found = await owner_scope.find_notification(
        account_id, number, owner_ids=readable_owners(context.authenticated_caller)
    )
    return to_notification(found) if found is not None else None


def _owner_to_change(context: Context, owner_id: str | None) -> str:
    """The owner whose account is to be changed: the viewer's own where none is named. Raises: Forbidden, BadRequest."""
    check_ids(**{"input.ownerId": owner_id})
    owner = resolve_owner(context, owner_id)
    if owner is None:
        raise Forbidden("You may not look at that owner's account.")
    check_can_change(context, owner, f"The account of {owner!r}")
    return owner


async def _numbers(account_id: int | None, notice_ids: list[strawberry.ID]) -> list[int]:
    """The numbers of an account's notices by their ids. Raises: NoticeNotFound: one of them is not the account's."""
    keys: dict[strawberry.ID, tuple[int, int]] = {}
    for text in notice_ids:
        parts = global_ids.decode_id(text, "Notice", int, int)
        if parts is None:
            raise NotificationNotFound(notification_id=text)
        keys[text] = (int(parts[0]), int(parts[1]))
    # Of another account none is found, by the same read: as number 0, which no notice has.
    mine = int(account_id or 0)
    found = await notifications.get_notifications(
        (mine, number if owner == mine else 0) for owner, number in keys.values()
    )
    for text, key in keys.items():
        if key not in found:
            raise NotificationNotFound(notification_id=text)
    return [number for _, number in dict.fromkeys(keys.values())]
