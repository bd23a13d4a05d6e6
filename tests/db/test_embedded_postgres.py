"""Embedded PostgreSQL: data is kept, every kill is recovered from, no process is left behind."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from app.db import embedded_postgres
from app.db.postgres_programs import copy_programs
from tests.command_line import REPOSITORY, temporary_directory

OWNER = """
import sys, time
from pathlib import Path
from app.db import embedded_postgres
server = embedded_postgres.start(Path(sys.argv[1]))
print(server.server.pid, server.watcher.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path


def query(url: str, sql: str) -> object:
    async def answer() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(answer())


class Owner:
    """Another process that runs the server of `data_dir`, in its own process group."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data_dir)], cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.server, self.watcher = (psutil.Process(int(pid)) for pid in output.readline().split())

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_second_start_keeps_the_data(directory: Path) -> None:
    with embedded_postgres.start(directory) as first:
        query(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")

    with embedded_postgres.start(directory) as second:
        assert query(second.url, "SELECT answer FROM kept") == 42


def test_the_server_has_durable_settings(directory: Path) -> None:
    with embedded_postgres.start(directory) as server:
        for name, value in {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}.items():
            assert query(server.url, f"SHOW {name}") == value
        assert query(server.url, "SHOW max_connections") == "200"
        assert query(server.url, "SHOW listen_addresses") == ""
        assert query(server.url, "SELECT current_database()::text") == "credits"


def test_stop_leaves_no_process_and_no_pid_file(directory: Path) -> None:
    with embedded_postgres.start(directory) as server:
        family = [psutil.Process(server.server.pid), *psutil.Process(server.server.pid).children(recursive=True)]
        watcher = psutil.Process(server.watcher.pid)
    server.stop()  # a second call does nothing

    assert not any(process.is_running() for process in [*family, watcher])
    assert not (directory / "cluster" / "postmaster.pid").exists()
    assert not (directory / "cluster" / embedded_postgres.SOCKET_NAME).exists()


def test_the_server_shuts_down_when_its_owner_is_killed(directory: Path) -> None:
    owner = Owner(directory)

    owner.kill()

    assert eventually(lambda: not owner.server.is_running())
    assert "database system is shut down" in (directory / "postgres.log").read_text()  # not a crash
    with embedded_postgres.start(directory) as server:
        assert query(server.url, "SELECT 1") == 1


def test_a_start_right_after_a_kill_finds_all_committed_data(directory: Path) -> None:
    owner = Owner(directory)
    url = embedded_postgres.running_url(directory)
    assert url is not None
    query(url, "CREATE TABLE kept AS SELECT 42 AS answer")

    owner.kill()

    with embedded_postgres.start(directory) as server:
        assert query(server.url, "SELECT answer FROM kept") == 42


def test_the_next_start_stops_a_server_that_outlived_its_owner_and_watcher(directory: Path) -> None:
    owner = Owner(directory)
    owner.watcher.kill()
    owner.kill()
    assert owner.server.is_running()

    with embedded_postgres.start(directory) as server:
        assert query(server.url, "SELECT 1") == 1
        assert not owner.server.is_running()


def test_recovery_after_all_processes_were_killed_at_once(directory: Path) -> None:
    owner = Owner(directory)
    url = embedded_postgres.running_url(directory)
    assert url is not None
    query(url, "CREATE TABLE kept AS SELECT 42 AS answer")

    owner.watcher.kill()
    owner.server.kill()
    owner.kill()

    with embedded_postgres.start(directory) as server:
        assert query(server.url, "SELECT answer FROM kept") == 42


def test_a_pid_file_with_the_pid_of_another_program_is_ignored(directory: Path) -> None:
    embedded_postgres.start(directory).stop()
    stranger = directory / "cluster" / "postmaster.pid"
    stranger.write_text(f"{os.getpid()}\n{directory / 'cluster'}\n1\n5432\n{directory / 'cluster'}\n\n1 1\nready\n")

    assert embedded_postgres.running_url(directory) is None
    with embedded_postgres.start(directory) as server:
        assert query(server.url, "SELECT 1") == 1


def test_environment_variables_for_another_server_are_ignored(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {
        "PGHOST": "nowhere.invalid",
        "PGPORT": "1",
        "PGUSER": "somebody",
        "PGDATABASE": "elsewhere",
        "PGDATA": str(directory / "elsewhere"),
        "PGOPTIONS": "-c no_such_setting=1",
        "PGSSLMODE": "require",
    }
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)

    with embedded_postgres.start(directory) as server:
        assert query(server.url, "SELECT current_user::text") == "postgres"


def test_two_processes_do_not_share_a_data_directory(directory: Path) -> None:
    owner = Owner(directory)
    try:
        with pytest.raises(
            embedded_postgres.EmbeddedPostgresError, match=rf"Process {owner.process.pid} .* set DATA_DIR"
        ):
            embedded_postgres.start(directory)
        assert owner.server.is_running()
    finally:
        owner.kill()
        assert eventually(lambda: not owner.server.is_running())


def test_two_installations_run_at_once(directory: Path) -> None:
    with embedded_postgres.start(directory / "one") as one, embedded_postgres.start(directory / "two") as two:
        query(one.url, "CREATE TABLE only_here ()")
        assert query(two.url, "SELECT to_regclass('only_here')::text") is None


def test_the_url_of_a_running_server_can_be_found(directory: Path) -> None:
    assert embedded_postgres.running_url(directory) is None
    with embedded_postgres.start(directory) as server:
        assert embedded_postgres.running_url(directory) == server.url
    assert embedded_postgres.running_url(directory) is None


def test_long_paths_and_paths_with_special_characters_work(directory: Path) -> None:
    data_dir = directory / "a path, with 'odd' \"characters\" & 100%" / ("x" * 100)
    with embedded_postgres.start(data_dir) as first:
        query(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert embedded_postgres.running_url(data_dir) == first.url
    with embedded_postgres.start(data_dir) as second:
        assert query(second.url, "SELECT answer FROM kept") == 42
        socket_dir = second.socket_dir
    socket_dir.rmdir()


def test_permissions_of_private_parent_directories_are_kept(directory: Path) -> None:
    private = directory / "private"
    private.mkdir(mode=0o700)
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in (private, *private.parents)}

    with embedded_postgres.start(private / "data") as server:
        query(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with embedded_postgres.start(private / "data") as again:
        assert query(again.url, "SELECT answer FROM kept") == 42

    assert {path: stat.S_IMODE(path.stat().st_mode) for path in before} == before


def test_the_error_of_a_failed_start_has_the_output_of_postgresql(directory: Path) -> None:
    embedded_postgres.start(directory).stop()
    (directory / "cluster" / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match="incompatible with server"):
        embedded_postgres.start(directory)


def test_copied_programs_run_and_are_readable_for_all_users(directory: Path) -> None:
    copy = copy_programs(embedded_postgres.bin_dir(), directory / "copy")

    version = subprocess.run([copy / "initdb", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("initdb (PostgreSQL) 18.")
    private = [
        path for path in (directory / "copy").rglob("*") if not path.is_symlink() and not path.stat().st_mode & 0o004
    ]
    assert private == []
    made = copy.stat().st_ino
    assert copy_programs(embedded_postgres.bin_dir(), directory / "copy").stat().st_ino == made


def test_the_programs_of_the_wheel_include_pgbench() -> None:
    version = subprocess.run(
        [embedded_postgres.bin_dir() / "pgbench", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("pgbench (PostgreSQL) 18.")
