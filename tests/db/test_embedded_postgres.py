"""The PostgreSQL that starts by itself: its data stay, it recovers from every kill, nothing is left running."""

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
def place() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


def ask(url: str, sql: str) -> object:
    async def answer() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(answer())


class Owner:
    """Another process that runs the server of `data_dir`, in a group of its own."""

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


def test_a_second_start_keeps_the_data(place: Path) -> None:
    with embedded_postgres.start(place) as first:
        ask(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")

    with embedded_postgres.start(place) as second:
        assert ask(second.url, "SELECT answer FROM kept") == 42


def test_what_was_committed_is_on_disk_and_settings_are_those_of_a_server_that_keeps_money(place: Path) -> None:
    with embedded_postgres.start(place) as server:
        for name, value in {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}.items():
            assert ask(server.url, f"SHOW {name}") == value
        assert ask(server.url, "SHOW max_connections") == "200"
        assert ask(server.url, "SHOW listen_addresses") == ""
        assert ask(server.url, "SELECT current_database()::text") == "credits"


def test_stopping_leaves_no_process_and_no_pid_file(place: Path) -> None:
    with embedded_postgres.start(place) as server:
        family = [psutil.Process(server.server.pid), *psutil.Process(server.server.pid).children(recursive=True)]
        watcher = psutil.Process(server.watcher.pid)
    server.stop()  # a second time does nothing

    assert not any(process.is_running() for process in [*family, watcher])
    assert not (place / "cluster" / "postmaster.pid").exists()
    assert not (place / "cluster" / embedded_postgres.SOCKET_NAME).exists()


def test_the_server_goes_by_itself_when_its_owner_is_killed(place: Path) -> None:
    owner = Owner(place)

    owner.kill()

    assert eventually(lambda: not owner.server.is_running())
    assert "database system is shut down" in (place / "postgres.log").read_text()  # cleanly, not by a crash
    with embedded_postgres.start(place) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_a_start_right_after_the_owner_was_killed_finds_all_that_was_committed(place: Path) -> None:
    owner = Owner(place)
    url = embedded_postgres.running_url(place)
    assert url is not None
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")

    owner.kill()

    with embedded_postgres.start(place) as server:
        assert ask(server.url, "SELECT answer FROM kept") == 42


def test_a_server_that_outlived_its_owner_and_its_watcher_is_stopped_by_the_next_start(place: Path) -> None:
    owner = Owner(place)
    owner.watcher.kill()
    owner.kill()
    assert owner.server.is_running()

    with embedded_postgres.start(place) as server:
        assert ask(server.url, "SELECT 1") == 1
        assert not owner.server.is_running()


def test_everything_killed_at_once_recovers(place: Path) -> None:
    owner = Owner(place)
    url = embedded_postgres.running_url(place)
    assert url is not None
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")

    owner.watcher.kill()
    owner.server.kill()
    owner.kill()

    with embedded_postgres.start(place) as server:
        assert ask(server.url, "SELECT answer FROM kept") == 42


def test_a_pid_file_whose_pid_belongs_to_another_program_by_now_is_no_obstacle(place: Path) -> None:
    embedded_postgres.start(place).stop()
    stranger = place / "cluster" / "postmaster.pid"
    stranger.write_text(f"{os.getpid()}\n{place / 'cluster'}\n1\n5432\n{place / 'cluster'}\n\n1 1\nready\n")

    assert embedded_postgres.running_url(place) is None
    with embedded_postgres.start(place) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_variables_meant_for_another_server_change_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {
        "PGHOST": "nowhere.invalid",
        "PGPORT": "1",
        "PGUSER": "somebody",
        "PGDATABASE": "elsewhere",
        "PGDATA": str(place / "elsewhere"),
        "PGOPTIONS": "-c no_such_setting=1",
        "PGSSLMODE": "require",
    }
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)

    with embedded_postgres.start(place) as server:
        assert ask(server.url, "SELECT current_user::text") == "postgres"


def test_two_processes_do_not_share_a_data_directory(place: Path) -> None:
    owner = Owner(place)
    try:
        with pytest.raises(
            embedded_postgres.EmbeddedPostgresError, match=rf"Process {owner.process.pid} .* set DATA_DIR"
        ):
            embedded_postgres.start(place)
        assert owner.server.is_running()
    finally:
        owner.kill()
        assert eventually(lambda: not owner.server.is_running())


def test_two_installations_run_at_once(place: Path) -> None:
    with embedded_postgres.start(place / "one") as one, embedded_postgres.start(place / "two") as two:
        ask(one.url, "CREATE TABLE only_here ()")
        assert ask(two.url, "SELECT to_regclass('only_here')::text") is None


def test_another_process_finds_the_address_of_a_running_server(place: Path) -> None:
    assert embedded_postgres.running_url(place) is None
    with embedded_postgres.start(place) as server:
        assert embedded_postgres.running_url(place) == server.url
    assert embedded_postgres.running_url(place) is None


def test_a_path_too_long_for_a_socket_and_with_odd_characters_works(place: Path) -> None:
    data_dir = place / "a path, with 'odd' \"characters\" & 100%" / ("x" * 100)
    with embedded_postgres.start(data_dir) as first:
        ask(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert embedded_postgres.running_url(data_dir) == first.url
    with embedded_postgres.start(data_dir) as second:
        assert ask(second.url, "SELECT answer FROM kept") == 42
        socket_dir = second.socket_dir
    socket_dir.rmdir()  # empty by now


def test_a_private_directory_above_the_data_stays_private(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in (private, *private.parents)}

    with embedded_postgres.start(private / "data") as server:
        ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with embedded_postgres.start(private / "data") as again:
        assert ask(again.url, "SELECT answer FROM kept") == 42

    assert {path: stat.S_IMODE(path.stat().st_mode) for path in before} == before


def test_a_server_that_cannot_start_says_what_postgresql_said(place: Path) -> None:
    embedded_postgres.start(place).stop()
    (place / "cluster" / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match="incompatible with server"):
        embedded_postgres.start(place)


def test_a_copy_of_the_programs_finds_its_libraries_and_is_for_everybody(place: Path) -> None:
    copy = copy_programs(embedded_postgres.bin_dir(), place / "copy")

    told = subprocess.run([copy / "initdb", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("initdb (PostgreSQL) 18.")
    private = [
        path for path in (place / "copy").rglob("*") if not path.is_symlink() and not path.stat().st_mode & 0o004
    ]
    assert private == []
    made = copy.stat().st_ino
    assert copy_programs(embedded_postgres.bin_dir(), place / "copy").stat().st_ino == made


def test_the_programs_of_the_wheel_include_pgbench() -> None:
    told = subprocess.run(
        [embedded_postgres.bin_dir() / "pgbench", "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("pgbench (PostgreSQL) 18.")
