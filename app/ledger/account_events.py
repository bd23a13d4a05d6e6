"""Events of accounts, which outgoing webhooks deliver to the platform's backend.

`record_event` adds an event to a posting, so the event is stored in the same transaction as the change that it reports.
One row of `webhook_delivery` is stored for each enabled endpoint that wants this type of event.
`app.outgoing_webhooks` delivers the rows.

The fields of these classes are the fields of the payloads, and the documentation is generated from them. Increase
PAYLOAD_VERSION with every change of a payload that could break a receiver.
"""

import secrets
from dataclasses import dataclass, fields
from datetime import datetime
from typing import ClassVar, Final

import orjson

from app.db.set_writes import SetStatement, SetWrite
from app.errors import described
from app.ledger.rules.account_state import AccountState

PAYLOAD_VERSION: Final = 1

_WANTED: Final = "e.disabled_at IS NULL AND (e.event_types = '[]'::jsonb OR e.event_types ? v.event_type)"
# `event_types` is empty if the endpoint wants all types. The ids of an account's deliveries increase in the order of
# its events, because the account row is locked until the commit.
_ENQUEUE: Final = SetStatement(
    "webhook deliveries",
    f"""
    INSERT INTO webhook_delivery (account_id, endpoint_id, event_id, event_type, payload, created_at, next_attempt_at)
    SELECT v.account_id, e.id, v.event_id, v.event_type, v.payload, v.at, clock_timestamp()
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::int[])
        AS v(account_id, event_id, event_type, payload, at, place)
    JOIN webhook_endpoint AS e ON {_WANTED}
    ORDER BY v.place
    RETURNING 1
    """,  # noqa: S608  our own constants
    6,
    checks_row_count=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEvent:
    """The data of an event. `event_type` is the field `type` of the payload."""

    event_type: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceLow(AccountEvent):
    """The available credits have fallen below the low-balance threshold."""

    event_type = "balance.low"

    threshold: int = described("The low-balance threshold of the account.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfCredits(AccountEvent):
    """No credits are available. Running agents stop, and scheduled ones do not start."""

    event_type = "balance.out_of_credits"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceReplenished(AccountEvent):
    """Credits became available: there were none before, or credits were added."""

    event_type = "balance.replenished"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStopped(AccountEvent):
    """A task was stopped, because a block run could not be paid."""

    event_type = "task.stopped"

    task_id: str = described("The task.")
    agent_id: str = described("Its agent.")
    reason: str = described("Why it was stopped: OUT_OF_CREDITS, BUDGET_REACHED or BUDGET_EXPIRED.")
    required: int | None = described("The cost of the block run that could not be paid, if there was one.")
    shortfall: int | None = described("The credits that were missing to pay the block run.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpPaid(AccountEvent):
    """A top-up was paid, and its credits were added."""

    event_type = "top_up.paid"

    top_up_id: str = described("The top-up.")
    credits: int = described("The credits that were bought.")
    bonus_credits: int = described("The promotional credits that were added with the purchase.")
    amount_minor: int = described("The price without added tax, in minor units (cents).")
    currency: str = described("The currency of the price, such as USD.")
    automatic: bool = described("Whether auto top-up bought the credits.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpFailed(AccountEvent):
    """A top-up was not paid. No credits were added."""

    event_type = "top_up.failed"

    top_up_id: str = described("The top-up.")
    status: str = described("The status of the top-up: FAILED or EXPIRED.")
    credits: int = described("The credits that the top-up would have added.")
    automatic: bool = described("Whether auto top-up began the top-up.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpRefunded(AccountEvent):
    """A refund of a top-up began, is done, or failed. It takes credits back when it begins; they return if it fails."""

    event_type = "top_up.refunded"

    top_up_id: str = described("The top-up.")
    refund_id: str = described("The refund.")
    status: str = described("PENDING, DONE or FAILED.")
    credits: int = described("The credits that were taken back.")
    debt_credits: int = described("The part of these credits that was already spent and became debt.")
    amount_minor: int = described("The money that was returned, with tax, in minor units (cents).")
    currency: str = described("The currency of the amount, such as USD.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpDisputed(AccountEvent):
    """The buyer disputes a payment at its bank, or the dispute has changed or ended."""

    event_type = "top_up.disputed"

    top_up_id: str = described("The top-up.")
    dispute_id: str = described("The id of the dispute at the payment provider.")
    status: str = described("OPEN, WON or LOST.")
    credits: int = described("The credits that the dispute concerns. A lost dispute takes them back.")
    frozen_credits: int = described("The part of these credits that is frozen until the dispute is decided.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantExpiring(AccountEvent):
    """Credits will expire soon."""

    event_type = "grant.expiring"

    credits: int = described("The credits that will expire if nothing spends them.")
    expires_at: datetime = described("When they expire.")  # noqa: RUF009  it only creates a field


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUpBlocked(AccountEvent):
    """Auto top-up makes no purchase until the owner changes something."""

    event_type = "auto_top_up.blocked"

    reason: str = described("Why, as a text for the owner.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSkipped(AccountEvent):
    """A task started by a schedule or a webhook did not start, because no credits were available.

    Not sent again until credits are added.
    """

    event_type = "schedule.skipped"

    agent_id: str = described("The agent whose task did not start.")


EVENTS: Final[dict[str, type[AccountEvent]]] = {event.event_type: event for event in AccountEvent.__subclasses__()}
"""All events, by type."""


def record_event(account: AccountState, event: AccountEvent) -> None:
    """Add an event to the posting of a locked account."""
    account.events.append(event)


def add_event_writes(account: AccountState, write: SetWrite) -> None:
    """Store the events of an account for each endpoint that wants them. Call this after the last change."""
    for place, event in enumerate(account.events):
        payload = build_payload(
            event,
            owner_id=account.owner_id,
            available=account.available,
            account_version=account.version,
            at=account.at,
        )
        event_id = f"evt_{secrets.token_hex(16)}"
        write.add(_ENQUEUE, (account.account_id, event_id, event.event_type, payload, account.at, place))
    account.events.clear()


def build_payload(event: AccountEvent, *, owner_id: str, available: int, account_version: int, at: datetime) -> str:
    """Return the JSON that receivers get. The figures of the account are those after the change."""
    data = {camel_case(field.name): getattr(event, field.name) for field in fields(event)}
    account = {"ownerId": owner_id, "available": available, "accountVersion": account_version}
    payload = {"type": event.event_type, "version": PAYLOAD_VERSION, "timestamp": at, "data": account | data}
    return orjson.dumps(payload, option=orjson.OPT_UTC_Z).decode()


def select_deliveries(events: str, payload: str) -> str:
    """Return an INSERT of deliveries for events that an SQL statement finds.

    `events` is a FROM item `v` with the columns account_id, event_type and at. `payload` is a text expression.
    """
    return f"""
        INSERT INTO webhook_delivery
            (account_id, endpoint_id, event_id, event_type, payload, created_at, next_attempt_at)
        SELECT v.account_id, e.id, 'evt_' || replace(gen_random_uuid()::text, '-', ''), v.event_type, {payload},
            v.at, clock_timestamp()
        FROM {events} JOIN webhook_endpoint AS e ON {_WANTED}
        RETURNING 1
    """  # noqa: S608  our own constants


def camel_case(name: str) -> str:
    """Return a field's name in the payload."""
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
