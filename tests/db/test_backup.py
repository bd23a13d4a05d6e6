"""Backups: a dump that is made while charges commit is restored elsewhere, and its hash chains go on."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from app.db import postgres_programs
from app.pricing.rate_card_cache import RateCardCache
from tests.command_line import run_beside
from tests.conftest import LEDGER_KEY
from tests.databases import temporary_database
from tests.factories import charge_block_run, grant_credits, start_task

pytestmark = pytest.mark.anyio


async def run(url: str, *arguments: str) -> tuple[int, str]:
    """The exit status of a command, and the last line that it prints."""
    ended = await run_beside(*arguments, DATABASE_URL=url, LEDGER_KEY=LEDGER_KEY.hex())
    return ended.returncode, (ended.stdout.splitlines() or [ended.stderr])[-1]


async def run_program(name: str, *arguments: str) -> None:
    """Run a program of PostgreSQL's."""
    command = [str(postgres_programs.bin_dir() / name), *arguments]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


async def test_a_dump_of_a_busy_database_is_restored_whole_and_goes_on(
    db: str, rate_cards: RateCardCache, tmp_path: Path
) -> None:
    dump, before, after = tmp_path / "credits.dump", tmp_path / "before", tmp_path / "after"
    await grant_credits("alice", 1_000)
    task = await start_task("alice")

    async def charge(times: int) -> None:
        for _ in range(times):
            await charge_block_run(task, rate_cards)

    await charge(2)
    await run(db, "verify", "--heads", str(before))
    await asyncio.gather(run_program("pg_dump", "--format=custom", f"--file={dump}", db), charge(20))
    await charge(1)
    await run(db, "verify", "--heads", str(after))

    async with temporary_database(db) as restored:
        await run_program(
            "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", f"--dbname={restored}", str(dump)
        )
        intact = await run(restored, "verify", "--heads", str(before))
        cut_off = await run(restored, "verify", "--heads", str(after))
        granted = await run(restored, "grant", "alice", "5", "--reason", "after the restore")
        went_on = await run(restored, "verify", "--heads", str(before))

    assert (intact[0], intact[1]) == (0, f"1 saved heads found, 1 heads saved to {before}")
    assert (cut_off[0], cut_off[1].rpartition(": ")[2]) == (1, "1 violation")
    assert granted[0] == 0
    assert went_on == (0, f"1 saved heads found, 1 heads saved to {before}")
