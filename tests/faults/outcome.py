"""What a load has found: acknowledged charges against the database, the longest answer, the recovery."""

from dataclasses import dataclass, field
from typing import Final

from tests.faults.load import GRANTED, Answer, Load

ANSWERED_SECONDS: Final = 10.0
"""Every caller is answered within this time."""
RECOVERED_SECONDS: Final = 10.0
"""The server serves every account again within this time after the end of the cause."""
OTHERS_SECONDS: Final = 3.0
"""Accounts that a fault does not concern are charged at least once in this time."""
READINESS_SECONDS: Final = 2.0
"""The time limit of /readyz."""
TOLERANCE_SECONDS: Final = 1.0
"""What the machine of the tests may add, because clients, server and PostgreSQL share its processors."""

CHARGES_SQL: Final = """
    SELECT entry.block_run_id, account.owner_id, count(*) AS entries, -sum(entry.credits) AS cost
    FROM entry JOIN account ON account.id = entry.account_id
    WHERE account.owner_id = ANY($1) AND entry.kind = 'CHARGE'
    GROUP BY entry.block_run_id, account.owner_id
"""
TASKS_SQL: Final = """
    SELECT task.task_id, task.status FROM task JOIN account ON account.id = task.account_id
    WHERE account.owner_id = ANY($1)
"""
ACCOUNTS_SQL: Final = "SELECT owner_id, posted, held FROM account WHERE owner_id = ANY($1)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one fault. `recovery_seconds`: from the end of its cause until every account was charged again."""

    acknowledged: int
    recovery_seconds: float
    longest_answer: Answer
    longest_probe_seconds: float
    codes: dict[str, int]
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        codes = ", ".join(f"{count} {code}" for code, count in sorted(self.codes.items())) or "no errors"
        return (
            f"{self.acknowledged:,} charges acknowledged, longest answer {self.longest_answer.seconds:.1f} s, "
            f"recovery {self.recovery_seconds:.1f} s, longest /readyz {self.longest_probe_seconds:.1f} s, {codes}"
        )


async def examine(load: Load, *, recovery_seconds: float) -> Outcome:
    """Compare what was acknowledged with the database, verify the ledger, and list what is wrong."""
    longest = max(load.answers, key=lambda answer: answer.seconds)
    probe = max(probe.seconds for probe in load.probes)
    problems = [*load.unexpected[:10], *await _differences(load)]
    if longest.seconds > ANSWERED_SECONDS + TOLERANCE_SECONDS:
        problems.append(f"an answer took {longest.seconds:.1f} s ({longest.code})")
    if probe > READINESS_SECONDS + TOLERANCE_SECONDS:
        problems.append(f"/readyz took {probe:.1f} s")
    if recovery_seconds > RECOVERED_SECONDS + TOLERANCE_SECONDS:
        problems.append(f"recovery took {recovery_seconds:.1f} s")
    await load.installation.verify()
    return Outcome(
        acknowledged=len(load.charged),
        recovery_seconds=recovery_seconds,
        longest_answer=longest,
        longest_probe_seconds=probe,
        codes=dict(load.codes()),
        problems=problems,
    )


async def _differences(load: Load) -> list[str]:
    """What the database contains otherwise than the server acknowledged."""
    database = load.installation.database
    charges = {record["block_run_id"]: record for record in await database.fetch(CHARGES_SQL, load.owners)}
    statuses = dict(await database.fetch(TASKS_SQL, load.owners))
    accounts = await database.fetch(ACCOUNTS_SQL, load.owners)
    spent = dict.fromkeys(load.owners, 0)
    for record in charges.values():
        spent[record["owner_id"]] += record["cost"]
    lost = {run for run, cost in load.charged.items() if run not in charges or charges[run]["cost"] != cost}
    doubled = {run for run, record in charges.items() if record["entries"] != 1}
    foreign = {run for run, record in charges.items() if load.sent.get(run) != record["owner_id"]}
    lost_tasks = {task for task in load.started if task not in statuses}
    unfinished = {task for task in load.finished if statuses.get(task) != "COMPLETED"}
    kinds = {
        "lost": lost, "charged twice": doubled, "never requested": foreign, "tasks lost": lost_tasks,
        "tasks not finished": unfinished,
    }  # fmt: skip
    return [
        *(f"{len(runs)} {kind}: {sorted(runs)[:3]}" for kind, runs in kinds.items() if runs),
        *(
            f"{record['owner_id']} has {record['posted']} credits, not {GRANTED - spent[record['owner_id']]}"
            for record in accounts
            if record["posted"] != GRANTED - spent[record["owner_id"]]
        ),
        *(f"{record['owner_id']} has {record['held']} held credits" for record in accounts if record["held"]),
    ]
