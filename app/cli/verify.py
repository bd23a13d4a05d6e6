"""`python -m app verify [OWNER] [--heads FILE]` and `python -m app ledger-keys`

The HMAC chain proves that nobody without the key has changed an entry, or removed an entry that others follow. It does
not prove that the newest entries still exist. Therefore the newest entry of each account, its *head*, can be saved to a
file, which is stored elsewhere. The next verification checks that all saved heads are still in the ledger, and then
saves the new heads.
"""

import asyncio
import re
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from app.cli.connection import database_url, open_database
from app.credits import check_key
from app.db import pools
from app.errors import InvalidInput
from app.ledger import accounts, posting, registered_keys
from app.settings import get_settings
from app.state import configure_ledger
from app.verify import verifier
from app.verify.verifier import AccountHead, VerificationReport
from app.wording import counted

HEADS_PER_QUERY: Final = 1_000
_HEAD_LINE: Final = re.compile(r"([0-9]{1,18}) ([0-9]{1,18}) ((?:[0-9a-f]{2})+)")
"""Account id, seq and MAC. Numbers of 18 digits fit a `bigint`."""

MISSING_HEADS: Final = """
SELECT saved.account_id, saved.seq, e.mac IS NOT NULL AS is_changed
FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS saved(account_id, seq, mac)
LEFT JOIN entry AS e ON e.account_id = saved.account_id AND e.seq = saved.seq
WHERE e.mac IS DISTINCT FROM saved.mac
ORDER BY saved.account_id
"""

_RECORD: Final = """
    INSERT INTO verification (finished_at, is_intact, accounts, entries, violations)
    VALUES (clock_timestamp(), $1, $2, $3, $4) RETURNING 1
"""
"""Stores the result of a verification of all accounts. The metrics report the newest one."""


def run(owner_id: str | None, heads_file: Path | None) -> int:
    """Print violations and a summary.

    Returns the exit status: 1 if the ledger is not intact, 3 if entries could not be verified because their key is not
    configured.
    """
    saved = read_heads(heads_file) if heads_file and heads_file.exists() else []
    heads = asyncio.run(_verify_and_print(owner_id, saved))
    if isinstance(heads, int):
        return heads
    if heads_file:
        write_heads(heads_file, heads)
        print(f"{len(saved):,} saved heads found, {len(heads):,} heads saved to {heads_file}")
    return 0


async def _verify_and_print(owner_id: str | None, saved: list[AccountHead]) -> list[AccountHead] | int:
    """Return the heads of all accounts, or the exit status if the ledger could not be proven to be intact."""
    configure_ledger(get_settings())
    with database_url() as url:
        async with open_database(url):
            if owner_id is not None:
                await _check_owner(owner_id)
            missing = await missing_heads(saved)
            report, heads = await _verify(owner_id)
            violations = len(missing) + len(report.violations) + report.unlisted
            if owner_id is None:
                await pools.fetch(_RECORD, violations == 0, report.accounts, report.entries, violations)
    for line in (*missing, *report.violations):
        print(line)
    if report.unlisted:
        print(f"… and {report.unlisted:,} more")
    verdict = counted(violations, "violation") if violations else "the ledger is intact"
    if report.missing_keys:
        unverified = counted(report.missing_keys.total(), "entry", "entries")
        verdict = f"{counted(violations, 'violation')}, {unverified} could not be verified"
        for key_id, count in sorted(report.missing_keys.items()):
            entries = counted(count, "entry", "entries")
            print(f"{entries} signed with the ledger key {key_id}: add that key to LEDGER_VERIFICATION_KEYS")
    print(f"{counted(report.accounts, 'account')}, {counted(report.entries, 'entry', 'entries')}: {verdict}")
    if violations:
        return 1
    return 3 if report.missing_keys else heads


async def _check_owner(owner_id: str) -> None:
    """Raises: InvalidInput: the owner has no account, so nothing would be verified."""
    check_key(owner_id, path="OWNER")
    if await accounts.find_account_id(owner_id) is None:
        raise InvalidInput.at("OWNER", f"{owner_id} has no account")


async def _verify(owner_id: str | None) -> tuple[VerificationReport, list[AccountHead]]:
    heads: list[AccountHead] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Verifying")
        report = await verifier.verify_ledger(
            owner_id, lambda done, total: progress.update(task, completed=done, total=total), on_head=heads.append
        )
    return report, heads


async def missing_heads(saved: list[AccountHead]) -> list[str]:
    """Return a line for each saved head whose entry does not exist or has another MAC."""
    lines: list[str] = []
    for start in range(0, len(saved), HEADS_PER_QUERY):
        some = saved[start : start + HEADS_PER_QUERY]
        columns = ([head.account_id for head in some], [head.seq for head in some], [head.mac for head in some])
        for row in await pools.fetch(MISSING_HEADS, *columns):
            state = "has changed" if row["is_changed"] else "is gone"
            lines.append(f"HEAD account {row['account_id']}: entry {row['seq']} {state}")
    return lines


async def list_ledger_keys() -> None:
    """Print a line for each ledger key that is configured or has signed entries."""
    configure_ledger(get_settings())
    keys = posting.ledger_keys()
    with database_url() as url:
        async with open_database(url):
            used = await registered_keys.used_key_ids()
    for key_id in dict.fromkeys([*keys.by_id, *used]):
        role = "signs" if key_id == keys.signing.id else "verifies" if key_id in keys.by_id else "is not configured"
        print(f"{key_id}  {role}{', has signed entries' if key_id in used else ''}")


def read_heads(heads_file: Path) -> list[AccountHead]:
    """Read a file that `write_heads` has written. Raises: InvalidInput: the file is invalid."""
    heads: list[AccountHead] = []
    for number, line in enumerate(heads_file.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        if (found := _HEAD_LINE.fullmatch(line)) is None:
            raise InvalidInput.at(heads_file.name, f"is not a file of heads: see line {number}")
        heads.append(AccountHead(int(found[1]), int(found[2]), bytes.fromhex(found[3])))
    return heads


def write_heads(heads_file: Path, heads: list[AccountHead]) -> None:
    """Write the heads to a file, which is replaced atomically."""
    new = heads_file.with_name(f"{heads_file.name}.new")
    new.write_text("".join(f"{head.account_id} {head.seq} {head.mac.hex()}\n" for head in heads), encoding="ascii")
    new.replace(heads_file)
