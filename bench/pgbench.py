"""pgbench as the lower bound: PostgreSQL alone, with a function that does the least a charge can do.

It locks the account, inserts an entry and updates the balance. There are no tasks, prices, replays or callers. The
entries are removed before each run, so that the table does not grow.
"""

import re
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from app.db import embedded_postgres
from bench import databases, workload
from bench.environment import BenchmarkFailed, cpu_seconds
from bench.report import percentile
from bench.workload import Load, LoadResult

CREATE: Final = f"""
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
INSERT INTO account (id, balance)
SELECT number, {workload.GRANTED_CREDITS} FROM generate_series(0, {workload.MANY_ACCOUNTS}) AS number
"""  # noqa: S608  our own constants
"""Account 0 is charged by the load `hot`."""

_RANDOM_ACCOUNT: Final = f"\\set account random(1, {workload.MANY_ACCOUNTS})\n"
SCRIPTS: Final[dict[Load, str]] = {
    "many": f"{_RANDOM_ACCOUNT}SELECT charge(:account, 1);\n",
    "hot": "SELECT charge(0, 1);\n",
    "balance": f"{_RANDOM_ACCOUNT}SELECT balance, seq FROM account WHERE id = :account;\n",  # noqa: S608  our own constant
}


async def create(url: str) -> None:
    await databases.fetch(url, CREATE)


async def remove_entries(url: str) -> None:
    await databases.fetch(url, "TRUNCATE entry")
    await databases.fetch(url, "VACUUM ANALYZE account")


def run(
    url: str, load: Load, *, clients: int, seconds: float, directory: Path, name: str, database_pids: list[int]
) -> LoadResult:
    """Run for whole seconds; the script and logs are written to `directory`. Raises: BenchmarkFailed."""
    script = directory / f"{name}.sql"
    script.write_text(SCRIPTS[load])
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    command = [
        str(embedded_postgres.bin_dir() / "pgbench"), "--no-vacuum", "--protocol=prepared",
        f"--client={clients}", f"--jobs={min(2, clients)}", f"--time={max(1, round(seconds))}", f"--file={script}",
        "--log", f"--log-prefix={directory / name}", f"--host={options['host'][0]}", f"--port={options['port'][0]}",
        f"--username={unquote(parts.username or '')}", parts.path.lstrip("/"),
    ]  # fmt: skip
    used = cpu_seconds(database_pids)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    used = cpu_seconds(database_pids) - used
    if done.returncode != 0:
        raise BenchmarkFailed(done.stderr)
    script.unlink()
    latencies_ms: list[float] = []
    for log in directory.glob(f"{name}.*"):
        # The third field of a line is the latency of one transaction in µs.
        latencies_ms += [int(line.split(" ", 3)[2]) / 1_000 for line in log.read_text().splitlines()]
        log.unlink()
    rate = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if rate is None or not latencies_ms:
        raise BenchmarkFailed(f"pgbench executed nothing:\n{done.stdout}")
    return LoadResult(
        charges=len(latencies_ms),
        seconds=len(latencies_ms) / float(rate[1]),
        p50_ms=percentile(latencies_ms, 50),
        p99_ms=percentile(latencies_ms, 99),
        server_cpu_seconds=0.0,
        database_cpu_seconds=used,
    )
