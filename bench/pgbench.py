"""PostgreSQL by itself: its own pgbench calls a function that does the least a charge can do.

It locks the account, inserts an entry, updates the balance; it knows no tasks, prices, replays or callers. Its ledger
is emptied before each run, so that it never grows old.
"""

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from app.db import embedded_postgres, pools
from bench import scenarios
from bench.cpu import cpu_seconds
from bench.tally import Tally, percentile

SET_UP: Final = """
CREATE TABLE account (
    id bigint PRIMARY KEY, seq bigint NOT NULL DEFAULT 0, balance bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE entry (
    account_id bigint NOT NULL, seq bigint NOT NULL, credits bigint NOT NULL, balance_after bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (account_id, seq)
);
CREATE FUNCTION charge(charged_id bigint, cost bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found account%ROWTYPE;
BEGIN
    SELECT * INTO found FROM account WHERE id = charged_id FOR NO KEY UPDATE;
    IF found.balance < cost THEN
        RETURN NULL;
    END IF;
    INSERT INTO entry (account_id, seq, credits, balance_after)
    VALUES (charged_id, found.seq + 1, -cost, found.balance - cost);
    UPDATE account SET seq = seq + 1, balance = balance - cost WHERE id = charged_id;
    RETURN found.balance - cost;
END $$;
"""
ACCOUNTS: Final = "INSERT INTO account (id, balance) SELECT number, $2 FROM generate_series(0, $1) AS number"
"""Number 0 is the hot one."""

EMPTY: Final = "TRUNCATE entry; VACUUM ANALYZE account;"

SCRIPTS: Final[dict[scenarios.Load, str]] = {
    "balance": f"\\set account random(1, {scenarios.MANY_ACCOUNTS})\n"
    "SELECT balance, seq FROM account WHERE id = :account;\n",
    "many": f"\\set account random(1, {scenarios.MANY_ACCOUNTS})\nSELECT charge(:account, 1);\n",
    "hot": "SELECT charge(0, 1);\n",
}


class PgbenchFailed(Exception):
    """It did not run; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Pgbench:
    """pgbench, on a database that `set_up` has prepared. It writes its scripts and logs in `place`."""

    url: str
    place: Path
    database_pids: list[int]

    async def empty(self) -> None:
        connection = await asyncpg.connect(**pools.connection_arguments(self.url))
        for statement in filter(None, EMPTY.strip().split(";")):
            await connection.execute(statement)
        await connection.close()

    def run(self, load: scenarios.Load, *, clients: int, seconds: float, run: str) -> Tally:
        """Whole seconds only. Raises: PgbenchFailed."""
        script = self.place / f"{run}.sql"
        script.write_text(SCRIPTS[load])
        log = self.place / run
        before, started = cpu_seconds(self.database_pids), time.monotonic()
        told = self._pgbench(script, log, clients=clients, seconds=max(1, round(seconds)))
        lasted = time.monotonic() - started
        used = cpu_seconds(self.database_pids) - before
        milliseconds = [micros / 1000 for path in self.place.glob(f"{run}.*") for micros in _latencies(path)]
        rate = float(_found(r"^tps = ([0-9.]+)", told))
        charges = int(_found(r"^number of transactions actually processed: (\d+)", told))
        failed = int(_found(r"^number of failed transactions: (\d+)", told))
        for path in self.place.glob(f"{run}.*"):
            path.unlink()
        return Tally(
            charges=charges,
            seconds=charges / rate if rate else lasted,
            p50_ms=percentile(milliseconds, 50),
            p99_ms=percentile(milliseconds, 99),
            server_cpu_seconds=0.0,
            database_cpu_seconds=used,
            acknowledged=charges,
            refused=failed,
            refusal=told if failed else None,
        )

    def _pgbench(self, script: Path, log: Path, *, clients: int, seconds: int) -> str:
        parts = urlsplit(self.url)
        options = parse_qs(parts.query)
        command = [
            str(embedded_postgres.bin_dir() / "pgbench"), "--no-vacuum", "--protocol=prepared",
            f"--client={clients}", f"--jobs={min(2, clients)}", f"--time={seconds}", f"--file={script}",
            "--log", f"--log-prefix={log}", f"--host={options['host'][0]}", f"--port={options['port'][0]}",
            f"--username={unquote(parts.username or '')}", parts.path.lstrip("/"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PgbenchFailed(done.stderr)
        return done.stdout


async def set_up(url: str) -> None:
    """The function, its tables and the accounts."""
    connection = await asyncpg.connect(**pools.connection_arguments(url))
    await connection.execute(SET_UP)
    await connection.execute(ACCOUNTS, scenarios.MANY_ACCOUNTS, scenarios.GRANTED_CREDITS)
    await connection.close()


def _latencies(log: Path) -> list[int]:
    """Microseconds of each transaction: the third field of a line."""
    if log.suffix == ".sql":
        return []
    return [int(line.split(" ", 3)[2]) for line in log.read_text().splitlines()]


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise PgbenchFailed(f"pgbench said nothing like {pattern}:\n{text}")
    return found[1]
