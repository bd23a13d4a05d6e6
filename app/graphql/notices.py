"""Notices: what a person is told about an account, read, pushed and marked read; and the threshold of one of them."""

from collections.abc import AsyncGenerator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import strawberry

from app.errors import Forbidden, NoticeNotFound
from app.graphql import access, nodes
from app.graphql.access import Needs, Trail
from app.graphql.acts import act_of
from app.graphql.balances import Balance, account_id_of, balance_of
from app.graphql.context import Context, Information
from app.graphql.enums import shown
from app.graphql.errors import IdempotencyConflictError, InvalidInputError, NoticeNotFoundError
from app.graphql.inputs import checked, checked_list
from app.graphql.pagination import Connection, checked_first, cursor, page, position
from app.graphql.patience import patiently
from app.graphql.scalars import Credits
from app.graphql.sight import check_may_change, owner_asked, owners_changed, owners_seen
from app.ledger import noticeboard, sight, thresholds
from app.ledger.notices import NoticeKind

if TYPE_CHECKING:
    from app.graphql.accounts import Account

LazyAccount: TypeAlias = Annotated["Account", strawberry.lazy("app.graphql.accounts")]

MAX_MARKED: Final = 100
_READ_AT_ONCE: Final = 100
"""How many notices a subscription reads at once, and how many unread ones it begins with at most."""

shown(
    NoticeKind,
    description="What a notice is about.",
    values={
        NoticeKind.LOW_BALANCE: "Less than the account's threshold is available; told at each fall below it.",
        NoticeKind.OUT_OF_CREDITS: "Nothing is available, or too little for an agent, which was stopped.",
        NoticeKind.SCHEDULE_SKIPPED: "Scheduled runs of an agent do not start; told once until credits come.",
        NoticeKind.EXPIRING: "Credits will expire; told some days ahead.",
        NoticeKind.AUTO_TOP_UP_BLOCKED: "The automatic top-up does not buy.",
        NoticeKind.TOP_UP_FAILED: "A top-up was not paid.",
    },
)


@access.type(description="What a person is told about an account.", needs=Needs.REACHED)
class Notice(nodes.Node):
    kind: NoticeKind = access.value(description="What it is about.")
    message: str = access.value(description="What there is to say, for people.")
    agent_id: strawberry.ID | None = access.value(
        description="The agent that it is about; null where it is about the account."
    )
    at: datetime = access.value(description="When it was given.")
    read_at: datetime | None = access.value(description="When it was marked read, or cleared; null: unread.")
    cleared_at: datetime | None = access.value(
        description="When what it says was over, because credits came; null: it still holds, or nothing ends it."
    )


@strawberry.input(description="Notices that somebody has seen.")
class MarkNoticesReadInput:
    notice_ids: list[strawberry.ID] | None = strawberry.field(
        default=None, description=f"Their `id`s, 1 to {MAX_MARKED}; null: all of the account's."
    )
    owner_id: strawberry.ID | None = strawberry.field(default=None, description="Whose account; null: one's own.")


@strawberry.input(description="The account's own threshold.")
class SetLowBalanceAtInput:
    owner_id: strawberry.ID | None = strawberry.field(default=None, description="Whose account; null: one's own.")
    credits: Credits = strawberry.field(description="With less available than this the balance shows as LOW; 0: never.")
    idempotency_key: str = strawberry.field(description="The same key and request again changes nothing more.")


@access.type(description="The notices are marked read.", needs=Needs.REACHED)
class MarkNoticesReadSuccess:
    notices: list[Notice] = access.value(
        description="Those that were named, as they stand; or the newest 100 of all that were unread. Newest first."
    )


@access.type(description="The threshold is set.", needs=Needs.REACHED)
class SetLowBalanceAtSuccess:
    account: LazyAccount = access.value(description="The account.")
    balance: Balance = access.value(description="The balance now, with the status that follows.")
    replayed: bool = access.value(description="Whether the same request had set it before.")


MarkNoticesReadResult = Annotated[
    MarkNoticesReadSuccess | NoticeNotFoundError,
    strawberry.union("MarkNoticesReadResult", description="Marked, or why not."),
]
SetLowBalanceAtResult = Annotated[
    SetLowBalanceAtSuccess | InvalidInputError | IdempotencyConflictError,
    strawberry.union("SetLowBalanceAtResult", description="Set, or why not."),
]

Mark = Annotated[MarkNoticesReadInput, strawberry.argument(description="Which notices.")]
SetThreshold = Annotated[SetLowBalanceAtInput, strawberry.argument(description="How many credits.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Whose notices; null: one's own.")]


@strawberry.type(description="What somebody does about notices.")
class NoticeMutations:
    @access.mutation(
        needs=Needs.USER_OR_ABOVE,
        trail=Trail.RECORD,
        description="Mark notices as read, one's own or by a service. It takes no idempotency key: what is read stays "
        "as it was, so marking twice is marking once.",
    )
    async def mark_notices_read(self, info: Information, input: Mark) -> MarkNoticesReadResult:
        owner = _owner_to_change(info.context, input.owner_id)
        if input.notice_ids is not None:
            checked_list(input.notice_ids, name="input.noticeIds", limit=MAX_MARKED)
        account_id = await sight.account(owner, owner_ids=owners_changed(info.context.caller))
        numbers = None if input.notice_ids is None else await _numbers(account_id, input.notice_ids)
        marked = await noticeboard.mark_read(account_id, numbers, act=act_of(info)) if account_id is not None else []
        return MarkNoticesReadSuccess(notices=[notice_of(notice) for notice in marked])

    @access.mutation(
        needs=Needs.USER_OR_ABOVE,
        trail=Trail.RECORD,
        description="Choose below how many credits the balance is low, for one's own account or by a service. Each "
        "fall below it gives a notice; setting it gives none.",
    )
    async def set_low_balance_at(self, info: Information, input: SetThreshold) -> SetLowBalanceAtResult:
        from app.graphql.accounts import Account  # noqa: PLC0415  accounts show notices

        owner = _owner_to_change(info.context, input.owner_id)
        done = await thresholds.set_low_balance_at(
            owner,
            input.credits,
            key=input.idempotency_key,
            actor=info.context.caller.actor,
            owner_ids=owners_changed(info.context.caller),
            act=act_of(info),
        )
        return SetLowBalanceAtSuccess(
            account=Account(id=account_id_of(owner), owner_id=strawberry.ID(owner), figures=done.balance),
            balance=balance_of(done.balance, info.context),
            replayed=done.replayed,
        )


@strawberry.type(description="Notices, as they are given.")
class NoticeSubscription:
    @access.subscription(
        needs=Needs.USER_OR_ABOVE,
        description=f"The unread notices, oldest first, at most the {_READ_AT_ONCE} newest of them; then each new one "
        "once, in order. One that is marked read or cleared later is not sent again.",
    )
    async def notices(self, info: Information, owner_id: Owner = None) -> AsyncGenerator[Notice, None]:
        checked(ownerId=owner_id)
        owner = owner_asked(info.context, owner_id)
        if owner is None:
            raise Forbidden("You may not look at that owner's notices.")
        feed, seen_owners = info.context.house.live, owners_seen(info.context.caller)
        with feed.watch(owner) as made:
            # Nothing was ever written for this owner, or so it may be: the first write is announced by its name.
            while (account_id := await patiently(lambda: sight.account(owner, owner_ids=seen_owners))) is None:
                await made.changed()
        with feed.watch(account_id, swept=True) as watch:
            seen = await patiently(lambda: noticeboard.last_number(account_id))
            unread = await patiently(
                lambda: noticeboard.page(account_id, before_number=seen + 1, limit=_READ_AT_ONCE, unread_only=True)
            )
            for notice in reversed(unread):
                yield notice_of(notice)
            while True:
                found = await patiently(partial(noticeboard.after, account_id, seen, _READ_AT_ONCE))
                for notice in found:
                    seen = notice.number
                    yield notice_of(notice)
                if len(found) < _READ_AT_ONCE:
                    await watch.changed()


def notice_of(notice: noticeboard.Notice) -> Notice:
    """A notice as GraphQL shows it."""
    return Notice(
        id=nodes.encode_id("Notice", notice.account_id, notice.number),
        kind=notice.kind,
        message=notice.message,
        agent_id=strawberry.ID(notice.agent_id) if notice.agent_id is not None else None,
        at=notice.at,
        read_at=notice.read_at,
        cleared_at=notice.cleared_at,
    )


async def notice_page(account_id: int, *, first: int, after: str | None, unread_only: bool) -> Connection[Notice]:
    """An account's notices, newest first."""
    place = position(after, "notices", account_id, shape=(int,))
    found = await noticeboard.page(
        account_id,
        before_number=max(0, min(place[0], noticeboard.LAST_NUMBER)) if place else noticeboard.LAST_NUMBER,
        limit=checked_first(first) + 1,
        unread_only=unread_only,
    )
    return page(
        found,
        first=first,
        after=after,
        cursor_of=lambda notice: cursor("notices", account_id, notice.number),
        node_of=notice_of,
    )


@nodes.fetches("Notice", int, int)
async def fetch_notice(context: Context, account_id: int, number: int) -> Notice | None:
    found = await sight.notice(account_id, number, owner_ids=owners_seen(context.caller))
    return notice_of(found) if found is not None else None


def _owner_to_change(context: Context, owner_id: str | None) -> str:
    """The owner whose account is to be changed: the viewer's own where none is named. Raises: Forbidden, BadRequest."""
    checked(**{"input.ownerId": owner_id})
    owner = owner_asked(context, owner_id)
    if owner is None:
        raise Forbidden("You may not look at that owner's account.")
    check_may_change(context, owner, f"The account of {owner!r}")
    return owner


async def _numbers(account_id: int | None, notice_ids: list[strawberry.ID]) -> list[int]:
    """The numbers of an account's notices by their ids. Raises: NoticeNotFound: one of them is not the account's."""
    keys: dict[strawberry.ID, tuple[int, int]] = {}
    for text in notice_ids:
        parts = nodes.decode_id(text, "Notice", int, int)
        if parts is None:
            raise NoticeNotFound(notice_id=text)
        keys[text] = (int(parts[0]), int(parts[1]))
    # Of another account none is found, by the same read: as number 0, which no notice has.
    mine = int(account_id or 0)
    found = await noticeboard.by_number((mine, number if owner == mine else 0) for owner, number in keys.values())
    for text, key in keys.items():
        if key not in found:
            raise NoticeNotFound(notice_id=text)
    return [number for _, number in dict.fromkeys(keys.values())]
