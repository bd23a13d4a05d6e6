"""Task signals: STOP and RESUME, with change notifications in any order, repeated or lost."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from app.auth.caller import Caller
from app.engine.execution import OperationFailed
from app.live import change_feed
from app.live.change_notifier import NOTIFIER
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle, signals, stop_and_resume
from app.tasks.rules import SignalKind, StopReason, TaskState
from app.tasks.signals import AccountSignalState, Signal, SignalTracker, StoppedTask, changed_signals, initial_signals
from app.tasks.stop_and_resume import ResumeTaskRequest
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import charge_block_run, get_balance, grant_credits, start_task, try_charge

pytestmark = pytest.mark.anyio

SIGNALS = "subscription($owners: [ID!]) { taskSignals(ownerIds: $owners) { kind ownerId taskIds reason version asOf } }"
AT = datetime(2026, 1, 31, tzinfo=UTC)
STOP, RESUME = SignalKind.STOP, SignalKind.RESUME
OUT_OF_CREDITS, BUDGET_REACHED, EXPIRED = (
    StopReason.OUT_OF_CREDITS,
    StopReason.BUDGET_REACHED,
    StopReason.BUDGET_EXPIRED,
)

ShortSignal = tuple[SignalKind, tuple[str, ...] | None, StopReason | None]


def state(version: int, available: int, **stopped: StoppedTask) -> AccountSignalState:
    return AccountSignalState(
        account_id=1, owner_id="alice", version=version, available=available, stopped=stopped, as_of=AT
    )


def stop(reason: StopReason = OUT_OF_CREDITS, *, required: int | None = 10, version: int = 2) -> StoppedTask:
    return StoppedTask(reason, required, version)


def shape(signals: list[Signal]) -> list[ShortSignal]:
    """The signal without owner, version and time."""
    return [(signal.kind, signal.task_ids, signal.reason) for signal in signals]


ALL_STOP: ShortSignal = (STOP, None, OUT_OF_CREDITS)
ALL_RESUME: ShortSignal = (RESUME, None, None)


@pytest.mark.parametrize(
    ("now", "expected_signals"),
    [
        (state(1, 5), []),
        (state(1, 0), [ALL_STOP]),
        (state(1, 5, one=stop()), [(STOP, ("one",), OUT_OF_CREDITS)]),
        (state(1, 0, one=stop(), two=stop()), [ALL_STOP, (STOP, ("one", "two"), OUT_OF_CREDITS)]),
        (
            state(1, 5, one=stop(), two=stop(EXPIRED, required=None), three=stop(BUDGET_REACHED), four=stop()),
            [(STOP, ("two",), EXPIRED), (STOP, ("three",), BUDGET_REACHED), (STOP, ("one", "four"), OUT_OF_CREDITS)],
        ),
    ],
)
def test_the_initial_signals_list_everything_that_is_stopped(
    now: AccountSignalState, expected_signals: list[ShortSignal]
) -> None:
    assert shape(initial_signals(now)) == expected_signals
    assert all((one.owner_id, one.version, one.as_of) == ("alice", 1, AT) for one in initial_signals(now))


@pytest.mark.parametrize(
    ("before", "now", "going_on", "expected_signals"),
    [
        (state(1, 5), state(2, 4), (), []),
        (state(1, 5), state(2, 0), (), [ALL_STOP]),
        (state(1, 0), state(2, 0), (), []),
        (state(1, 0), state(2, 3), (), [ALL_RESUME]),
        # A task is stopped, again or for another reason.
        (state(1, 5), state(2, 5, one=stop()), (), [(STOP, ("one",), OUT_OF_CREDITS)]),
        (state(1, 5, one=stop()), state(2, 5, one=stop(version=4)), (), [(STOP, ("one",), OUT_OF_CREDITS)]),
        (state(1, 5), state(2, 0, one=stop()), (), [ALL_STOP, (STOP, ("one",), OUT_OF_CREDITS)]),
        # It runs again. A task that has ended instead produces no signal.
        (state(1, 5, one=stop(), two=stop()), state(2, 5, two=stop()), ("one",), [(RESUME, ("one",), None)]),
        (state(1, 5, one=stop()), state(2, 5), (), []),
        # The refused block run can be paid now.
        (state(1, 5, one=stop()), state(2, 9, one=stop()), (), []),
        (state(1, 5, one=stop()), state(2, 10, one=stop()), (), [(RESUME, ("one",), None)]),
        (state(1, 10, one=stop()), state(2, 20, one=stop()), (), []),
        # Meanwhile its version has risen, for example because a nested task was reversed.
        (state(1, 5, one=stop()), state(2, 10, one=stop(version=3)), (), [(RESUME, ("one",), None)]),
        (state(1, 0, one=stop()), state(2, 50, one=stop(version=3)), (), [ALL_RESUME]),
        (state(1, 20, one=stop()), state(2, 10, one=stop()), (), []),
        # Credits of the account do not resume a task that has reached its budget.
        (state(1, 5, one=stop(BUDGET_REACHED)), state(2, 50, one=stop(BUDGET_REACHED)), (), []),
        # An account that has credits again resumes all tasks, including stopped ones.
        (state(1, 0, one=stop()), state(2, 50, one=stop()), (), [ALL_RESUME]),
        (state(1, 0, one=stop()), state(2, 50), ("one",), [ALL_RESUME, (RESUME, ("one",), None)]),
    ],
)
def test_a_change_produces_exactly_its_signals(
    before: AccountSignalState, now: AccountSignalState, going_on: Collection[str], expected_signals: list[ShortSignal]
) -> None:
    assert shape(changed_signals(before, now, running_again=going_on)) == expected_signals
    assert all(one.version == now.version for one in changed_signals(before, now, running_again=going_on))


@pytest.mark.parametrize("now", [state(3, 0), state(3, 5, one=stop()), state(3, 5)])
def test_an_older_state_produces_no_signal(now: AccountSignalState) -> None:
    for before in (state(4, 5, two=stop()), state(4, 0, two=stop())):
        assert changed_signals(before, now, running_again=("two",)) == []


def test_a_signal_lists_at_most_a_thousand_tasks() -> None:
    many = {f"task-{number}": stop() for number in range(2_001)}
    signals = changed_signals(state(1, 5), state(2, 5, **many))
    assert [len(one.task_ids or ()) for one in signals] == [1_000, 1_000, 1]
    assert {name for one in signals for name in one.task_ids or ()} == set(many)


async def test_the_signals_of_a_budget_agree_with_those_of_its_charges(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 200)
    await grant_credits("bob", 100)
    task = await start_task("alice", budget=30, closing_reserve=10)
    child = await start_task("alice", parent_task_id=task.task_id)
    await start_task("bob", budget=30)
    both = tuple(sorted([task.task_id, child.task_id]))
    tracker = SignalTracker(None)

    def sent(signals: list[Signal]) -> list[ShortSignal]:
        return [(kind, ids and tuple(sorted(ids)), reason) for kind, ids, reason in shape(signals)]

    async def new() -> list[ShortSignal]:
        return sent(await tracker.new_signals({task.account_id: {change_feed.TASK_SIGNAL}}))

    assert await tracker.initial_signals() == []
    assert (await charge_block_run(task, rate_cards)).signal is None
    assert await new() == []

    assert (await charge_block_run(task, rate_cards)).signal is STOP
    assert await new() == [(STOP, both, BUDGET_REACHED)]
    assert sent(await SignalTracker(["alice"]).initial_signals()) == [(STOP, both, BUDGET_REACHED)]

    request = ResumeTaskRequest(task_id=task.task_id, add_budget=20, idempotency_key="k", actor="user:alice")
    await stop_and_resume.resume_task(request)
    assert await new() == [(RESUME, both, None)]
    assert (await charge_block_run(task, rate_cards)).signal is None

    assert (await charge_block_run(child, rate_cards)).signal is STOP
    assert await new() == [(STOP, both, BUDGET_REACHED)]
    await lifecycle.cancel_task(task.task_id)
    assert await new() == []


async def test_a_budget_that_is_used_up_or_restored_is_signalled_after_the_commit(
    rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grant_credits("alice", 200)
    task = await start_task("alice", budget=30, closing_reserve=10)
    signalled: list[str] = []
    monkeypatch.setattr(NOTIFIER, "announce_signals", lambda signals: signalled.extend(kind for *_, kind in signals))

    await charge_block_run(task, rate_cards)
    assert signalled == []
    await charge_block_run(task, rate_cards)
    assert signalled == [change_feed.TASK_SIGNAL]
    await charge_block_run(task, rate_cards, closing=True)
    assert signalled == [change_feed.TASK_SIGNAL]
    request = ResumeTaskRequest(task_id=task.task_id, add_budget=30, idempotency_key="k", actor="user:alice")
    await stop_and_resume.resume_task(request)
    assert signalled == [change_feed.TASK_SIGNAL] * 2


async def a_stopped_task(rate_cards: RateCardCache, owner_id: str = "alice", credits: int = 5) -> TaskState:
    """A running task whose owner has fewer credits than a block run costs."""
    await grant_credits(owner_id, credits)
    task = await start_task(owner_id)
    await try_charge(task, rate_cards)
    return task


async def resume(task: TaskState) -> None:
    await stop_and_resume.resume_task(ResumeTaskRequest(task_id=task.task_id, actor="service:test"))


async def test_a_tracker_starts_with_the_stopped_tasks_of_its_owners(rate_cards: RateCardCache) -> None:
    stopped = await a_stopped_task(rate_cards)
    await a_stopped_task(rate_cards, "bob")
    await grant_credits("well", 10)
    await start_task("well")
    await grant_credits("idle", 10)
    idle = await start_task("idle")
    await charge_block_run(idle, rate_cards)
    await lifecycle.cancel_task(idle.task_id)  # no credits and no running task

    assert shape(await SignalTracker(["alice"]).initial_signals()) == [(STOP, (stopped.task_id,), OUT_OF_CREDITS)]
    assert {one.owner_id for one in await SignalTracker(None).initial_signals()} == {"alice", "bob"}
    assert await SignalTracker(["well", "idle", "nobody"]).initial_signals() == []


async def test_a_repeated_notification_of_a_change_produces_one_signal(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    tracker = SignalTracker(["alice"])
    assert await tracker.initial_signals() == []

    await charge_block_run(task, rate_cards)
    notified = {task.account_id: {change_feed.ACCOUNT_SIGNAL}}
    signals = await tracker.new_signals(notified)
    assert shape(signals) == [ALL_STOP]
    assert signals[0].version == (await get_balance(task.account_id)).version
    assert await tracker.new_signals(notified) == []
    assert await tracker.new_signals(None) == []


async def test_notifications_in_any_order_produce_signals_of_the_current_state(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 5)
    task = await start_task("alice")
    tracker = SignalTracker(["alice"])
    assert await tracker.initial_signals() == []
    await try_charge(task, rate_cards)  # its notification arrives last
    await grant_credits("alice", 3)

    assert shape(await tracker.new_signals({task.account_id: {change_feed.ACCOUNT_SIGNAL}})) == [
        ALL_RESUME,
        (STOP, (task.task_id,), OUT_OF_CREDITS),
    ]
    assert await tracker.new_signals({task.account_id: {change_feed.TASK_SIGNAL}}) == []

    await resume(task)
    await try_charge(task, rate_cards)
    assert shape(await tracker.new_signals({task.account_id: {change_feed.TASK_SIGNAL}})) == [
        (STOP, (task.task_id,), OUT_OF_CREDITS)
    ]
    assert await tracker.new_signals({task.account_id: {change_feed.TASK_SIGNAL}}) == []


async def test_a_sweep_finds_changes_whose_notification_was_lost(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 10)
    one, two = await start_task("alice"), await start_task("alice")
    tracker = SignalTracker(None)
    assert await tracker.initial_signals() == []
    await charge_block_run(one, rate_cards)
    await try_charge(two, rate_cards)

    assert shape(await tracker.new_signals(None)) == [ALL_STOP, (STOP, (two.task_id,), OUT_OF_CREDITS)]
    await grant_credits("alice", 10)
    assert shape(await tracker.new_signals(None)) == [ALL_RESUME]
    await resume(two)
    assert shape(await tracker.new_signals(None)) == [(RESUME, (two.task_id,), None)]
    assert await tracker.new_signals(None) == []


async def test_an_account_that_cannot_be_read_delays_no_other(
    rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = await a_stopped_task(rate_cards)
    tracker = SignalTracker(None)
    assert shape(await tracker.initial_signals()) == [(STOP, (task.task_id,), OUT_OF_CREDITS)]
    await resume(task)
    await grant_credits("bob", 10)
    other = await start_task("bob")
    await charge_block_run(other, rate_cards)

    async def fail(_: Any) -> Any:
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(signals, "tasks_by_id", fail)
        found = await tracker.new_signals(None)
    assert [(signal.owner_id, signal.kind) for signal in found] == [("bob", STOP)]
    assert [record.getMessage() for record in caplog.records] == [
        f"the tasks of account {task.account_id} could not be read for its signals"
    ]
    assert shape(await tracker.new_signals(None)) == [(RESUME, (task.task_id,), None)]


async def test_unknown_accounts_and_those_of_other_owners_produce_no_signal(rate_cards: RateCardCache) -> None:
    tracker = SignalTracker(["bob"])
    assert await tracker.initial_signals() == []
    task = await a_stopped_task(rate_cards)

    for _ in range(2):
        notified = {
            task.account_id: {change_feed.TASK_SIGNAL, change_feed.ACCOUNT_SIGNAL},
            2**40: {change_feed.ACCOUNT_SIGNAL},
        }
        assert await tracker.new_signals(notified) == []
    assert await tracker.new_signals(None) == []


async def test_an_account_that_has_credits_again_produces_resume_even_if_it_was_not_tracked(
    rate_cards: RateCardCache,
) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    tracker = SignalTracker(["alice"])
    assert await tracker.initial_signals() == []
    await charge_block_run(task, rate_cards)
    await grant_credits("alice", 10)

    assert shape(await tracker.new_signals({task.account_id: {change_feed.ACCOUNT_SIGNAL}})) == [ALL_RESUME]
    await grant_credits("alice", 10)
    assert await tracker.new_signals({task.account_id: {change_feed.TASK_SIGNAL}}) == []


async def test_a_cancelled_task_produces_no_resume(rate_cards: RateCardCache) -> None:
    task, other = await a_stopped_task(rate_cards), await a_stopped_task(rate_cards, credits=1)
    tracker = SignalTracker(["alice"])
    assert shape(await tracker.initial_signals()) == [(STOP, (task.task_id, other.task_id), OUT_OF_CREDITS)]
    await lifecycle.cancel_task(task.task_id)
    await resume(other)

    assert shape(await tracker.new_signals({task.account_id: {change_feed.TASK_SIGNAL}})) == [
        (RESUME, (other.task_id,), None)
    ]


async def next_signal(stream: Any) -> Any:
    """The next signal, within two seconds, without `asOf`."""
    async with asyncio.timeout(2):
        signal = (await anext(stream))["data"]["taskSignals"]
    assert datetime.fromisoformat(signal.pop("asOf")).tzinfo is not None
    return signal


async def errors_of(api: Api, caller: Caller | None, owners: list[str]) -> list[Any]:
    """The errors of a subscription without items."""
    with pytest.raises(OperationFailed) as failure:
        async with asyncio.timeout(2):
            await anext(api.subscribe(caller, SIGNALS, owners=owners))
    return failure.value.errors


def expected_signal(kind: str, version: int, *, task: str | None = None, reason: str | None = None) -> Any:
    """A signal as the subscription returns it."""
    tasks = [task] if task else None
    return {"kind": kind, "ownerId": "alice", "taskIds": tasks, "reason": reason, "version": version}


@pytest.mark.parametrize("owners", [["alice"], ["nobody", "alice"], None])
async def test_each_signal_carries_the_version_of_the_account(
    api: Api, rate_cards: RateCardCache, owners: list[str] | None
) -> None:
    stopped = await a_stopped_task(rate_cards, credits=8)
    version = (await get_balance(stopped.account_id)).version
    executor = api.subscribe(SERVICE, SIGNALS, owners=owners)
    assert await next_signal(executor) == expected_signal(
        "STOP", version, task=stopped.task_id, reason="OUT_OF_CREDITS"
    )
    own = await start_task("alice", budget=8)  # takes the last credits
    version += 1
    assert await next_signal(executor) == expected_signal("STOP", version, reason="OUT_OF_CREDITS")
    await try_charge(own, rate_cards)
    version += 1
    assert await next_signal(executor) == expected_signal("STOP", version, task=own.task_id, reason="BUDGET_REACHED")
    await grant_credits("alice", 4)
    version += 1
    assert await next_signal(executor) == expected_signal("RESUME", version)
    await resume(stopped)
    version += 1
    assert await next_signal(executor) == expected_signal("RESUME", version, task=stopped.task_id)
    assert (await get_balance(own.account_id)).version == version
    await executor.aclose()


async def test_the_sweep_sends_signals_whose_notification_was_lost(
    api: Api, rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grant_credits("alice", 10)
    await grant_credits("bob", 5)
    task, other = await start_task("alice"), await start_task("bob")
    await NOTIFIER.flush()
    await asyncio.sleep(0.05)  # the notifications of the grants have arrived
    executor = api.subscribe(SERVICE, SIGNALS, owners=["alice", "bob"])
    waiting = asyncio.create_task(next_signal(executor))
    await asyncio.sleep(0.05)  # it has subscribed; there was no signal to send
    api.listener.cancel()
    await charge_block_run(task, rate_cards)
    await try_charge(other, rate_cards)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await api.state.change_feed.sweep()
    assert await waiting == expected_signal("STOP", 2, reason="OUT_OF_CREDITS")
    assert (await next_signal(executor))["taskIds"] == [other.task_id]
    await executor.aclose()


async def test_only_service_keys_that_may_charge_subscribe_to_signals(api: Api) -> None:
    for caller in (ALICE, BOB, READER, None, OPERATOR):
        [error] = await errors_of(api, caller, ["alice"])
        assert error["extensions"]["code"] == ("UNAUTHENTICATED" if caller is None else "FORBIDDEN")


async def test_a_list_of_owners_has_one_to_a_thousand_ids(api: Api) -> None:
    for owners, message in (
        ([], "ownerIds must have 1 to 1,000 items; it has 0."),
        (["x"] * 1_001, "ownerIds must have 1 to 1,000 items; it has 1,001."),
        (["alice", "a b"], "ownerIds.1 must have 1 to 255 visible characters"),
    ):
        [error] = await errors_of(api, SERVICE, owners)
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        assert message in error["message"]
