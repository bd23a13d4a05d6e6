"""The charges of one task: sent once, twice at once, again after a lost reply, again after the end; and given back."""

import asyncio
from typing import Any, Final

from examples.simulation import documents
from examples.simulation.context import Context, expect_success
from examples.simulation.workload import BlockRun, Delivery, Reversal, Task, Wave

REVERSED_TWICE_EVERY: Final = 2


class TaskCharging:
    """`stopped`: a charge was refused for want of credits, so nothing more may be run."""

    def __init__(self, stage: Context, task: Task) -> None:
        self._stage = stage
        self._task_id = stage.task_id(task)
        self._owner_id = stage.owners[task.owner].id
        self._paid: dict[int, BlockRun] = {}
        self._given_back: set[str] = set()
        self._reply_lost = False
        self.stopped = False
        self._refused = False

    async def charge_wave(self, wave: Wave) -> None:
        """Charge the block runs of a wave, at once."""
        if wave.as_batch:
            answers = await self._ask(documents.CHARGE_BATCH, [self._sent(run) for run in wave.runs])
            for run, answer in zip(wave.runs, answers, strict=True):
                self._take(run, answer)
        else:
            async with asyncio.TaskGroup() as group:
                for run in wave.runs:
                    group.create_task(self._charge(run))
        if self.stopped and not (self._refused or self._reply_lost or self._stage.client.events["requests repeated"]):
            self._stage.add_problem(f"task {self._task_id} is stopped, and no charge of it was refused")

    async def resend_after_end(self) -> None:
        """A reply got lost, as the executor believes long after the task's end: it is answered again."""
        for run in self._paid.values():
            if run.delivery is Delivery.LATE:
                answer = await self._ask(documents.CHARGE, self._sent(run))
                if not expect_success(answer, f"{self._run_id(run)}, sent again after the task's end,")["replayed"]:
                    self._stage.add_problem(f"block run {self._run_id(run)} was charged after its task had ended")
                self._take(run, answer)

    async def reverse_failed_runs(self, *, at_the_end: bool) -> None:
        """The part at once, the whole and the rest after the task's end."""
        for run in self._paid.values():
            part = run.credits // 2
            match run.reversal, at_the_end:
                case ((Reversal.PART | Reversal.BOTH), False):
                    await self._reverse(run, "part", part, expected=part)
                case Reversal.WHOLE, True:
                    await self._reverse(run, "whole", None, expected=run.credits)
                case Reversal.BOTH, True:
                    await self._reverse(run, "rest", None, expected=run.credits - part)

    async def _charge(self, run: BlockRun) -> None:
        sent = self._sent(run)
        if run.delivery is Delivery.LOST:
            self._reply_lost = True
            await self._stage.client.execute_and_disconnect(
                self._stage.tokens.service, documents.CHARGE, answered=run.number % 2 == 0, input=sent
            )
        times = 2 if run.delivery is Delivery.TWICE else 1
        for answer in await asyncio.gather(*(self._ask(documents.CHARGE, sent) for _ in range(times))):
            self._take(run, answer)

    def _take(self, run: BlockRun, answer: Any) -> None:
        match answer["__typename"]:
            case "ChargeSuccess":
                self._take_success(run, answer)
            case "InsufficientCreditsError":
                self.stopped = self._refused = True
                self._stage.expected.events["charges refused"] += 1
                self._stage.log(f"{self._task_id} of {self._owner_id} is out of credits: {answer['message']}")
                required, available = answer["required"], answer["available"]
                if available >= required or answer["shortfall"] != required - available or available < 0:
                    self._stage.add_problem(f"the refusal of {self._run_id(run)} does not add up: {answer}")
            case "TaskStoppedError":
                self.stopped = True
                self._stage.expected.events["charges refused"] += 1
            case _:
                expect_success(answer, f"block run {self._run_id(run)}")

    def _take_success(self, run: BlockRun, answer: Any) -> None:
        self._paid[run.number] = run
        cost, entry = answer["cost"], answer["entry"]
        if cost != run.credits:
            self._stage.add_price_mismatch(
                f"{run.step.block} {run.step.settings} cost {cost}, the card says {run.credits}"
            )
        if (entry["credits"] if entry else 0) != -cost or answer["balance"]["available"] < 0:
            self._stage.add_problem(f"the reply to {self._run_id(run)} does not add up: {answer}")
        self._stage.expected.record_charge(
            self._task_id,
            self._run_id(run),
            credits=cost,
            seq=entry["seq"] if entry else None,
            replayed=answer["replayed"],
        )

    async def _reverse(self, run: BlockRun, what: str, credits: int | None, *, expected: int) -> None:
        key = f"{self._run_id(run)}-{what}"
        if key in self._given_back:
            return
        self._given_back.add(key)
        sent = {
            "taskId": self._task_id,
            "blockRunId": self._run_id(run),
            "credits": credits,
            "reason": "The block failed",
            "idempotencyKey": key,
        }
        for _ in range(2 if run.number % REVERSED_TWICE_EVERY == 0 else 1):
            answer = await self._stage.client.execute(self._stage.tokens.operator, documents.REVERSE_CHARGE, input=sent)
            done = expect_success(answer, f"the reversal {key}")
            if not done["reversed"] == done["entry"]["credits"] == expected:
                self._stage.add_price_mismatch(
                    f"the reversal {key} gave back {done['reversed']}, expected were {expected}"
                )
            self._stage.expected.record_reversal(self._task_id, key, done["reversed"])
        self._stage.log(f"{expected:,} credits of {self._run_id(run)} were given back")

    async def _ask(self, operation: documents.Operation, sent: Any) -> Any:
        return await self._stage.client.execute(self._stage.tokens.service, operation, input=sent)

    def _sent(self, run: BlockRun) -> dict[str, Any]:
        return {
            "taskId": self._task_id,
            "blockRunId": self._run_id(run),
            "block": run.step.block,
            "settings": run.step.settings,
            "usesOwnKey": run.uses_own_key,
            "measurements": run.step.measurements,
        }

    def _run_id(self, run: BlockRun) -> str:
        return f"{self._task_id}-run-{run.number}"
