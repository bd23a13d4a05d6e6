"""Signals for executors: which tasks must stop, and which may continue.

Signals are derived from the accounts and the stopped tasks; they are not stored. When the change feed reports that
accounts may have changed, the process reads their state and compares it with the state that it sent last to the
subscriber. So after a lost, late or repeated report, signals are late or repeated, but not wrong. Each signal has the
version of its account, which rises with every stop, every resumption and every change of the available credits.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, Final, NamedTuple

from app.db import failures, pools
from app.db.tables import RowSelect
from app.live import change_feed
from app.tasks.queries import tasks_by_id
from app.tasks.rules import SignalKind, StopReason, TaskStatus

log = logging.getLogger(__name__)

_MAX_TASK_IDS: Final = 1_000
"""The largest number of task ids in one signal. More task ids are sent as several signals."""

# An open budget in which nothing is left but the closing reserve. `timeout_seconds > 0` is always true: it lets
# PostgreSQL use the partial index of open holds by task.
_IS_USED_UP: Final = """
    h.status = 'OPEN' AND h.timeout_seconds > 0 AND h.block_run_id IS NULL
    AND h.credits - h.captured - h.released - h.allocated <= h.closing_reserve
"""

# A running task whose budget is used up may start no more block runs either. So it is reported like a task that was
# stopped because of its budget.
_STOPPED_TASKS: Final = RowSelect(
    ["t.task_id", "t.stop_reason", "t.required", "t.version"],
    f"""
    FROM (
        SELECT task_id, stop_reason, required, version, started_at FROM task
        WHERE account_id = a.id AND status = 'STOPPED'
        UNION ALL
        SELECT r.task_id, '{StopReason.BUDGET_REACHED}', NULL, r.version, r.started_at
        FROM hold AS h JOIN task AS r ON r.account_id = h.account_id AND r.budget_hold = h.number
        WHERE h.account_id = a.id AND {_IS_USED_UP} AND r.status = 'RUNNING'
    ) AS t ORDER BY t.started_at, t.task_id
    """,  # noqa: S608  our own constants
)

_STATES: Final = f"""
    SELECT a.id, a.owner_id, a.version, greatest(a.posted - a.held - a.frozen, 0) AS available,
           greatest(clock_timestamp(), a.last_entry_at) AS as_of, ARRAY({_STOPPED_TASKS.sql}) AS stopped
    FROM account AS a WHERE a.id = ANY($1::bigint[]) ORDER BY a.id
"""  # noqa: S608  our own constant

# Selects the accounts for which there is a signal: no credits are available while tasks run, tasks are stopped, or a
# budget is used up. If the list of owners is NULL, all owners are selected.
_ACCOUNTS_WITH_SIGNALS: Final = f"""
    SELECT a.id FROM account AS a
    WHERE a.id IN (SELECT account_id FROM task WHERE status = 'RUNNING') AND a.posted - a.held - a.frozen <= 0
      AND ($1::text[] IS NULL OR a.owner_id = ANY($1))
    UNION
    SELECT a.id FROM account AS a
    WHERE a.id IN (
        SELECT account_id FROM task WHERE status = 'STOPPED'
        UNION ALL
        SELECT h.account_id FROM hold AS h WHERE {_IS_USED_UP}
    ) AND ($1::text[] IS NULL OR a.owner_id = ANY($1))
"""  # noqa: S608  our own constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A STOP or RESUME. `task_ids=None` means all open tasks of the owner that have no budget and no open hold."""

    kind: SignalKind
    owner_id: str
    task_ids: tuple[str, ...] | None
    reason: StopReason | None
    version: int
    as_of: datetime


class StoppedTask(NamedTuple):
    """A stopped task, or a running one whose budget is used up. `required` is the cost of the block run that stopped
    it; None for the others.

    `version` is that of the task. It also rises when a nested task changes, so a STOP may be repeated.
    """

    reason: StopReason
    required: int | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSignalState:
    """The state of one account from which signals are derived. `stopped` contains the stopped tasks by task id."""

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
    """Return the signals of an account whose state was not sent before."""
    signals = [_signal(SignalKind.STOP, state, None, StopReason.OUT_OF_CREDITS)] if state.is_out_of_credits else []
    return signals + _stop_signals(state, state.stopped)


def changed_signals(
    before: AccountSignalState, now: AccountSignalState, *, running_again: Collection[str] = ()
) -> list[Signal]:
    """Return the signals that follow from a change. There are none if `now` is older than `before`.

    `running_again` contains the tasks that were stopped in `before` and run now.
    """
    if now.version < before.version:
        return []
    signals: list[Signal] = []
    came_back = before.is_out_of_credits and not now.is_out_of_credits
    resumed = [task_id for task_id in before.stopped if task_id in running_again]
    if now.is_out_of_credits and not before.is_out_of_credits:
        signals.append(_signal(SignalKind.STOP, now, None, StopReason.OUT_OF_CREDITS))
    elif came_back:
        signals.append(_signal(SignalKind.RESUME, now, None, None))
    else:
        resumed += [
            task_id
            for task_id, task in now.stopped.items()
            if _has_same_cause(before.stopped.get(task_id), task)
            and task.reason is StopReason.OUT_OF_CREDITS
            and before.available < (task.required or 1) <= now.available
        ]
    signals += _task_signals(SignalKind.RESUME, now, resumed, None)
    # A task that may continue gets no new STOP if only its version has changed.
    may_continue = set(resumed) if not came_back else set(now.stopped)
    new = {
        task_id: task
        for task_id, task in now.stopped.items()
        if (earlier := before.stopped.get(task_id)) != task
        and not (task_id in may_continue and _has_same_cause(earlier, task))
    }
    return signals + _stop_signals(now, new)


def _has_same_cause(earlier: StoppedTask | None, task: StoppedTask) -> bool:
    return earlier is not None and (earlier.reason, earlier.required) == (task.reason, task.required)


class SignalTracker:
    """Keeps the state last sent to one subscriber, and finds the next signals. `owner_ids=None` means all owners."""

    def __init__(self, owner_ids: Collection[str] | None) -> None:
        self._owner_ids = list(owner_ids) if owner_ids is not None else None
        self._sent: dict[int, AccountSignalState] = {}
        self._other_accounts: set[int] = set()

    async def initial_signals(self) -> list[Signal]:
        """Return signals for all accounts and tasks that must stop now."""
        states = await _read_states(await self._accounts_with_signals())
        self._save(states)
        return [signal for state in states for signal in initial_signals(state)]

    async def new_signals(self, signalled: Mapping[int, Collection[str]] | None) -> list[Signal]:
        """Return the signals that follow from changes since the last call.

        `signalled` contains the kinds of the change feed's reports by account id. None: any account may have changed.
        """
        if signalled is None:
            wanted = {*await self._accounts_with_signals(), *self._sent}
        else:
            wanted = {account_id for account_id in signalled if account_id not in self._other_accounts}
        signals: list[Signal] = []
        found = await _read_states(sorted(wanted))
        states = [state for state in found if self._owner_ids is None or state.owner_id in self._owner_ids]
        self._other_accounts |= {state.account_id for state in found} - {state.account_id for state in states}
        sent: list[AccountSignalState] = []
        for now in states:
            before = self._sent.get(now.account_id)
            if before is None:
                before = _assumed_state_before(now, (signalled or {}).get(now.account_id, ()))
            not_stopped = [task_id for task_id in before.stopped if task_id not in now.stopped]
            try:
                running_again = await _running(now.account_id, not_stopped)
            except Exception as failure:
                if failures.is_connection_failure(failure):
                    raise
                # Other accounts are not affected. The earlier state is kept, so the next sweep tries again.
                text = "the tasks of account %s could not be read for its signals"
                failures.log_failure(log, failure, text, now.account_id)
                continue
            signals += changed_signals(before, now, running_again=running_again)
            sent.append(now)
        self._save(sent)
        return signals

    async def _accounts_with_signals(self) -> list[int]:
        return [record["id"] for record in await pools.fetch(_ACCOUNTS_WITH_SIGNALS, self._owner_ids)]

    def _save(self, states: Iterable[AccountSignalState]) -> None:
        """Keep the states that can still lead to a RESUME. The others are removed."""
        for state in states:
            if state.is_out_of_credits or state.stopped:
                self._sent[state.account_id] = state
            else:
                self._sent.pop(state.account_id, None)


def _assumed_state_before(now: AccountSignalState, kinds: Collection[str]) -> AccountSignalState:
    """Return an assumed earlier state of an account whose state was not kept.

    It is assumed to have had credits, unless the change feed reports that credits became available.
    """
    came_back = change_feed.ACCOUNT_SIGNAL in kinds and not now.is_out_of_credits
    return AccountSignalState(
        account_id=now.account_id, owner_id=now.owner_id, version=0, available=0 if came_back else 1, as_of=now.as_of
    )


async def _read_states(account_ids: Sequence[int]) -> list[AccountSignalState]:
    return [_state(record) for record in await pools.fetch(_STATES, list(account_ids))] if account_ids else []


async def _running(account_id: int, task_ids: Sequence[str]) -> set[str]:
    if not task_ids:
        return set()
    found = await tasks_by_id([(account_id, task_id) for task_id in task_ids])
    return {task.task_id for task in found.values() if task.status is TaskStatus.RUNNING}


def _state(record: Any) -> AccountSignalState:
    return AccountSignalState(
        account_id=record["id"],
        owner_id=record["owner_id"],
        version=record["version"],
        available=record["available"],
        stopped={
            row["task_id"]: StoppedTask(StopReason(row["stop_reason"]), row["required"], row["version"])
            for row in _STOPPED_TASKS.read(record["stopped"])
        },
        as_of=record["as_of"],
    )


def _stop_signals(state: AccountSignalState, stopped: Mapping[str, StoppedTask]) -> list[Signal]:
    by_reason = sorted(stopped.items(), key=lambda item: item[1].reason)
    return [
        signal
        for reason, items in groupby(by_reason, key=lambda item: item[1].reason)
        for signal in _task_signals(SignalKind.STOP, state, [task_id for task_id, _ in items], reason)
    ]


def _task_signals(
    kind: SignalKind, state: AccountSignalState, task_ids: Sequence[str], reason: StopReason | None
) -> list[Signal]:
    return [
        _signal(kind, state, tuple(task_ids[start : start + _MAX_TASK_IDS]), reason)
        for start in range(0, len(task_ids), _MAX_TASK_IDS)
    ]


def _signal(
    kind: SignalKind, state: AccountSignalState, task_ids: tuple[str, ...] | None, reason: StopReason | None
) -> Signal:
    return Signal(
        kind=kind, owner_id=state.owner_id, task_ids=task_ids, reason=reason, version=state.version, as_of=state.as_of
    )
