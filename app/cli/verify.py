"""`python -m app audit [OWNER] [--heads FILE]`

The keyed chain proves that nobody without the key changed an entry or took one out, but not that the newest entries
were not cut off. For that the last entry of every account, its *head*, is kept in a file elsewhere: an audit finds the
heads of the one before still in their places and then, if all is whole, keeps the new ones.
"""

import asyncio
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from app.cli.connection import database_url, open_database
from app.db import pools
from app.errors import InvalidInput
from app.settings import get_settings
from app.state import configure_ledger
from app.verify import verifier

HEADS_PER_QUERY: Final = 1_000

# Of the heads that were kept, those whose entry is not there any more with the same MAC.
MISSING_HEADS: Final = """
SELECT kept.account_id, kept.seq, e.mac IS NOT NULL AS changed
FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS kept(account_id, seq, mac)
LEFT JOIN entry AS e ON e.account_id = kept.account_id AND e.seq = kept.seq
WHERE e.mac IS DISTINCT FROM kept.mac
ORDER BY kept.account_id
"""


def run(owner_id: str | None, heads: Path | None) -> int:
    """The exit status: 0 where the books are whole, else 1."""
    kept = read_checkpoint(heads) if heads and heads.exists() else []
    found = asyncio.run(_run(owner_id, kept))
    if found is None:
        return 1
    if heads:
        write_checkpoint(heads, found)
        print(f"{len(kept):,} heads found in their places, {len(found):,} kept in {heads}")
    return 0


async def _run(owner_id: str | None, kept: list[verifier.AccountHead]) -> list[verifier.AccountHead] | None:
    """Audit and tell. Returns: the heads, where the books are whole and the ones that were kept are in them."""
    configure_ledger(get_settings())
    with database_url() as url:
        async with open_database(url):
            lost = await _lost(kept)
            report, found = await _audit(owner_id)
    for line in (*lost, *report.violations):
        print(line)
    if report.unlisted:
        print(f"… and {report.unlisted:,} more")
    whole = report.is_intact and not lost
    verdict = "the books are whole" if whole else f"{len(lost) + len(report.violations) + report.unlisted:,} breaks"
    print(f"{report.accounts:,} accounts, {report.entries:,} entries: {verdict}")
    return found if whole else None


async def _audit(owner_id: str | None) -> tuple[verifier.VerificationReport, list[verifier.AccountHead]]:
    found: list[verifier.AccountHead] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        auditing = bar.add_task("Auditing")
        report = await verifier.verify_ledger(
            owner_id, lambda done, total: bar.update(auditing, completed=done, total=total), on_head=found.append
        )
    return report, found


async def _lost(kept: list[verifier.AccountHead]) -> list[str]:
    """What became of the heads that were kept and are not in the books any more."""
    told: list[str] = []
    for start in range(0, len(kept), HEADS_PER_QUERY):
        some = kept[start : start + HEADS_PER_QUERY]
        columns = ([head.account_id for head in some], [head.seq for head in some], [head.mac for head in some])
        for account_id, seq, changed in await pools.fetch(MISSING_HEADS, *columns):
            told.append(f"HEAD account {account_id}: entry {seq} {'is another' if changed else 'is gone'}")
    return told


def read_checkpoint(heads: Path) -> list[verifier.AccountHead]:
    """Raises: InvalidInput: it is not a file that `write` wrote."""
    kept: list[verifier.AccountHead] = []
    for number, line in enumerate(heads.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        try:
            account_id, seq, mac = line.split()
            kept.append(verifier.AccountHead(int(account_id), int(seq), bytes.fromhex(mac)))
        except ValueError:
            raise InvalidInput.at(heads.name, f"is not a file of heads: see line {number}") from None
    return kept


def write_checkpoint(heads: Path, found: list[verifier.AccountHead]) -> None:
    """A whole new file or the old one, never half of one."""
    new = heads.with_name(f"{heads.name}.new")
    new.write_text("".join(f"{head.account_id} {head.seq} {head.mac.hex()}\n" for head in found), encoding="ascii")
    new.replace(heads)
