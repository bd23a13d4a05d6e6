"""Signals for executors: who has to stop, who may go on.

Derived from the accounts and from the tasks that are stopped, never written to other tasks. A follower is woken where
something may have changed, reads the state of those accounts and tells the difference to what it told before: so a
notice that is lost, doubled or late confuses nothing. Each signal carries its account's version; a stop, a resumption
and every change of what is available raise it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, Final, NamedTuple

from app.db import pools
from app.live import change_feed
from app.tasks import queries
from app.tasks.rules import SignalKind, StopReason, TaskStatus

_LONGEST_LIST: Final = 1_000
"""Tasks named in one signal; more make more signals."""

_STATES: Final = """
    SELECT a.id, a.owner_id, a.version, greatest(a.posted - a.held - a.frozen, 0) AS available,
           clock_timestamp() AS at,
           ARRAY(SELECT ROW(t.task_id, t.stop_reason, t.required, t.version) FROM task AS t
                 WHERE t.account_id = a.id AND t.status = 'STOPPED' ORDER BY t.started_at, t.task_id) AS stopped
    FROM account AS a WHERE a.id = ANY($1::bigint[]) ORDER BY a.id
"""

# Accounts of which there is something to tell: nothing available while tasks run, or tasks that are stopped. Null: of
# every owner.
_CONCERNED: Final = """
    SELECT a.id FROM account AS a
    WHERE a.id IN (SELECT account_id FROM task WHERE status = 'RUNNING') AND a.posted - a.held - a.frozen <= 0
      AND ($1::text[] IS NULL OR a.owner_id = ANY($1))
    UNION
    SELECT a.id FROM account AS a
    WHERE a.id IN (SELECT account_id FROM task WHERE status = 'STOPPED')
      AND ($1::text[] IS NULL OR a.owner_id = ANY($1))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Stop, or go on. `task_ids` None: all open tasks of the owner that have neither a budget nor an open hold."""

    kind: SignalKind
    owner_id: str
    task_ids: tuple[str, ...] | None
    reason: StopReason | None
    version: int
    as_of: datetime


class StoppedTask(NamedTuple):
    """A task that is stopped: why, what its block run would have cost, and at which version of the task."""

    reason: StopReason
    required: int | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSignalState:
    """What signals are derived from: one account at one version."""

    account_id: int
    owner_id: str
    version: int
    available: int
    stopped: Mapping[str, StoppedTask] = field(default_factory=dict)
    as_of: datetime

    @property
    def is_out_of_credits(self) -> bool:
        return self.available == 0


def initial_signals(state: AccountSignalState) -> list[Signal]:
    """What a follower is told of an account that it has not heard of."""
    told = [_signal(SignalKind.STOP, state, None, StopReason.OUT_OF_CREDITS)] if state.is_out_of_credits else []
    return told + _stops(state, state.stopped)


def changed_signals(
    before: AccountSignalState, now: AccountSignalState, *, running_again: Collection[str] = ()
) -> list[Signal]:
    """What has changed. `going_on`: those that are stopped no longer and run. An older state tells nothing."""
    if now.version < before.version:
        return []
    told: list[Signal] = []
    resumed = [task_id for task_id in before.stopped if task_id in running_again]
    if now.is_out_of_credits and not before.is_out_of_credits:
        told.append(_signal(SignalKind.STOP, now, None, StopReason.OUT_OF_CREDITS))
    elif before.is_out_of_credits and not now.is_out_of_credits:
        told.append(_signal(SignalKind.RESUME, now, None, None))
    else:
        resumed += [
            task_id
            for task_id, stop in now.stopped.items()
            if stop == before.stopped.get(task_id)
            and stop.reason is StopReason.OUT_OF_CREDITS
            and before.available < (stop.required or 1) <= now.available
        ]
    told += _named(SignalKind.RESUME, now, resumed, None)
    fresh = {task_id: stop for task_id, stop in now.stopped.items() if before.stopped.get(task_id) != stop}
    return told + _stops(now, fresh)


class SignalTracker:
    """What one subscriber has been told, and what it has to be told next."""

    def __init__(self, owner_ids: Collection[str] | None) -> None:
        self._owners = list(owner_ids) if owner_ids is not None else None
        self._known: dict[int, AccountSignalState] = {}
        self._others: set[int] = set()

    async def initial_signals(self) -> list[Signal]:
        """What is stopped now."""
        found = await _read(await self._concerned())
        self._keep(found)
        return [signal for state in found for signal in initial_signals(state)]

    async def new_signals(self, signalled: Mapping[int, Collection[str]] | None) -> list[Signal]:
        """What has changed in the accounts that were signalled, with the kinds; None: in any account."""
        if signalled is None:
            wanted = {*await self._concerned(), *self._known}
        else:
            wanted = {account_id for account_id in signalled if account_id not in self._others}
        told: list[Signal] = []
        found = await _read(sorted(wanted))
        mine = [state for state in found if self._owners is None or state.owner_id in self._owners]
        self._others |= {state.account_id for state in found} - {state.account_id for state in mine}
        for now in mine:
            before = self._known.get(now.account_id)
            if before is None:
                before = _unheard_of(now, (signalled or {}).get(now.account_id, ()))
            gone = [task_id for task_id in before.stopped if task_id not in now.stopped]
            told += changed_signals(before, now, running_again=await _running(now.account_id, gone))
        self._keep(mine)
        return told

    async def _concerned(self) -> list[int]:
        return [record["id"] for record in await pools.fetch(_CONCERNED, self._owners)]

    def _keep(self, states: Iterable[AccountSignalState]) -> None:
        """Remember what may change back; an account that is well and has nothing stopped needs no memory."""
        for state in states:
            if state.is_out_of_credits or state.stopped:
                self._known[state.account_id] = state
            else:
                self._known.pop(state.account_id, None)


def _unheard_of(now: AccountSignalState, kinds: Collection[str]) -> AccountSignalState:
    """What an account that was not kept had been: well, unless the signal says that it came back from nothing."""
    came_back = change_feed.ACCOUNT_SIGNAL in kinds and not now.is_out_of_credits
    return AccountSignalState(
        account_id=now.account_id, owner_id=now.owner_id, version=0, available=0 if came_back else 1, as_of=now.as_of
    )


async def _read(account_ids: Sequence[int]) -> list[AccountSignalState]:
    return [_state(record) for record in await pools.fetch(_STATES, list(account_ids))] if account_ids else []


async def _running(account_id: int, task_ids: Sequence[str]) -> set[str]:
    if not task_ids:
        return set()
    found = await queries.tasks_by_id([(account_id, task_id) for task_id in task_ids])
    return {task.task_id for task in found.values() if task.status is TaskStatus.RUNNING}


def _state(record: Any) -> AccountSignalState:
    return AccountSignalState(
        account_id=record["id"],
        owner_id=record["owner_id"],
        version=record["version"],
        available=record["available"],
        stopped={
            task_id: StoppedTask(StopReason(reason), required, version)
            for task_id, reason, required, version in record["stopped"]
        },
        as_of=record["at"],
    )


def _stops(state: AccountSignalState, stopped: Mapping[str, StoppedTask]) -> list[Signal]:
    told: list[Signal] = []
    by_reason = sorted(stopped.items(), key=lambda item: item[1].reason)
    for reason, items in groupby(by_reason, key=lambda item: item[1].reason):
        told += _named(SignalKind.STOP, state, [task_id for task_id, _ in items], reason)
    return told


def _named(
    kind: SignalKind, state: AccountSignalState, task_ids: Sequence[str], reason: StopReason | None
) -> list[Signal]:
    return [
        _signal(kind, state, tuple(task_ids[start : start + _LONGEST_LIST]), reason)
        for start in range(0, len(task_ids), _LONGEST_LIST)
    ]


def _signal(
    kind: SignalKind, state: AccountSignalState, task_ids: tuple[str, ...] | None, reason: StopReason | None
) -> Signal:
    return Signal(
        kind=kind, owner_id=state.owner_id, task_ids=task_ids, reason=reason, version=state.version, as_of=state.as_of
    )
