"""Compare the stored rows of one account with the model."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.state_machine.database import MachineDatabase
from tests.state_machine.model_requests import LedgerModel
from tests.state_machine.values import ACCOUNT, Entry, budget_of, hold_for

ROWS = """
SELECT a.version, a.seq, a.next_change_at, a.open_holds,
    ARRAY(SELECT ROW(task_id, status, stop_reason, required, shortfall, charged, reversed, steps, ended_at IS NOT NULL)
          FROM task WHERE account_id = a.id) AS tasks,
    ARRAY(SELECT ROW(number, task_id, block_run_id, parent_budget, status, credits, captured, allocated, remaining,
                     closing_reserve, claims, expires_at)
          FROM hold WHERE account_id = a.id) AS holds,
    ARRAY(SELECT ROW(number, remaining, claimed, is_started) FROM credit_grant WHERE account_id = a.id) AS grants,
    ARRAY(SELECT ROW(block_run_id, task_id, cost, reversed, outcome) FROM block_run WHERE account_id = a.id) AS runs,
    ARRAY(SELECT ROW(kind, credits, at, task_id, block_run_id, draws, owed)
          FROM entry WHERE account_id = a.id AND seq > $2 ORDER BY seq) AS entries,
    ARRAY(SELECT task_id FROM skipped_start WHERE account_id = a.id) AS skipped,
    ARRAY(SELECT ROW(credits, status, refunded_credits, clawed_back_credits) FROM top_up
          WHERE account_id = a.id ORDER BY created_at, id) AS top_ups
FROM account AS a WHERE a.id = $1
"""


class StoredRows:
    """Keeps track of the entries already compared, so that each is read once."""

    def __init__(self, database: MachineDatabase, model: LedgerModel) -> None:
        self._world = database
        self._model = model
        self._entries = 0
        self._seq = 0
        self._state = (0, 0, 0, 0, 0)
        self._version = 0

    async def compare(self, account_id: int) -> None:
        row = await self._world.fetchrow(ROWS, account_id, self._seq)
        model = self._model
        self._compare_entries(row)
        assert {name: tuple(rest) for name, *rest in row["tasks"]} == {
            task.name: (task.status, task.reason, task.required, task.shortfall, task.charged, task.reversed,
                        task.steps, task.status in ("COMPLETED", "FAILED", "CANCELLED"))
            for task in model.tasks.values()
        }  # fmt: skip
        self._compare_holds(row["holds"])
        assert row["open_holds"] == sum(hold.open for hold in model.holds.values())
        assert {number: tuple(rest) for number, *rest in row["grants"]} == {
            grant.number: (
                sum(grant.pockets.values()), sum(grant.pockets.values()) - grant.inside(ACCOUNT), grant.started
            )
            for grant in model.grants
        }  # fmt: skip
        assert {name: tuple(rest) for name, *rest in row["runs"]} == {
            run.name: (run.task, run.cost, run.reversed, run.outcome) for run in model.runs.values()
        }
        assert set(row["skipped"]) == model.skipped
        assert sorted(map(tuple, row["top_ups"])) == sorted(
            (top_up.credits, *model.standing(top_up)) for top_up in model.top_ups.values()
        )
        self._compare_version(row)

    def _compare_holds(self, rows: Iterable[Any]) -> None:
        model = self._model
        pockets = {row[0]: budget_of(row[1]) if row[2] is None else hold_for(row[2]) for row in rows}
        found = {
            pockets[number]: (
                pockets.get(parent_budget, ACCOUNT), status, credits, captured, None if model.detached else allocated,
                remaining, reserve, claims_of(claims),
                expires_at if status == "OPEN" else None,
            )
            for (
                number, _, _, parent_budget, status, credits, captured, allocated, remaining, reserve, claims,
                expires_at,
            ) in rows
        }  # fmt: skip
        assert found == {
            hold.pocket: (
                hold.parent, hold.status, hold.credits, hold.captured,
                None if model.detached else model.lent(hold.pocket), model.inside(hold.pocket), hold.reserve,
                {grant.number: inside for grant in model.grants if (inside := grant.inside(hold.pocket))},
                hold.expires_at if hold.open else None,
            )
            for hold in model.holds.values()
        }  # fmt: skip

    def _compare_entries(self, row: Any) -> None:
        """Compare new entries in order. The product may write one expiry of a grant as two entries."""
        found = [
            Entry(
                kind=kind, credits=credits, at=at, task=task, run=run, draws=tuple(claims_of(draws).items()), owed=owed
            )
            for kind, credits, at, task, run, draws, owed in row["entries"]
        ]
        wanted = self._model.entries[self._entries :]
        assert [entry for entry in found if entry.kind != "EXPIRY"] == [
            entry for entry in wanted if entry.kind != "EXPIRY"
        ]
        assert expired(found) == expired(wanted)
        self._entries = len(self._model.entries)
        self._seq = row["seq"]

    def _compare_version(self, row: Any) -> None:
        """Changes of the figures, stops and resumes raise the version; `next_change_at` is not late."""
        model = self._model
        state = (model.posted, model.held, model.frozen, model.owed, model.signals)
        assert row["version"] >= self._version + (state != self._state)
        self._version, self._state = row["version"], state
        if coming := self._model.instants():
            assert row["next_change_at"] is not None
            assert row["next_change_at"] <= coming[0]


def claims_of(pairs: Any) -> dict[int, int]:
    return dict(json.loads(pairs))


def expired(entries: Iterable[Entry]) -> Counter[tuple[int, Any]]:
    """The expired credits by instant and grant."""
    left: Counter[tuple[int, Any]] = Counter()
    for entry in entries:
        if entry.kind == "EXPIRY":
            [(number, credits)] = entry.draws
            assert entry.credits == -credits
            left[number, entry.at] += credits
    return left
