"""`python -m app serve`: starts on an empty directory, answers, and leaves no process behind however it ends."""

import json
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app.cli import serve
from app.db import embedded_postgres, roles
from tests.command_line import (
    COMMAND,
    REPOSITORY,
    ServerProcess,
    environment,
    run_command,
    run_process,
    temporary_directory,
)


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


class Served(ServerProcess):
    """`python -m app serve` in a process group of its own, with an embedded PostgreSQL."""

    def __init__(self, data_dir: Path, *, port: int = 0, workers: int = 1) -> None:
        settings = {"DATA_DIR": str(data_dir), "PORT": str(port), "WORKERS": str(workers)}
        super().__init__(settings, new_session=True)
        self.data_dir = data_dir
        self.port = httpx.URL(self.url).port or 0
        ready = httpx.get(f"{self.url}/readyz", timeout=30)
        assert ready.status_code == 200, ready.text
        self.processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def is_gone(self) -> bool:
        """Whether all processes, the port and the pid file of PostgreSQL are gone within 15 seconds."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if not self.running() and not (self.data_dir / "postgres" / "cluster" / "postmaster.pid").exists():
                with pytest.raises(httpx.ConnectError):
                    httpx.get(self.url)
                return True
            time.sleep(0.05)
        return False

    def running(self) -> list[psutil.Process]:
        return [one for one in self.processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("number", "group", "workers"),
    [
        pytest.param(signal.SIGTERM, False, 2, id="SIGTERM, 2 workers"),
        pytest.param(signal.SIGINT, True, 1, id="Ctrl-C, 1 worker"),
        pytest.param(signal.SIGTERM, False, 1, id="SIGTERM, 1 worker", marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, True, 2, id="Ctrl-C, 2 workers", marks=pytest.mark.soak),
    ],
)
def test_the_server_and_its_database_stop_cleanly(
    number: signal.Signals, group: bool, workers: int, directory: Path
) -> None:
    served = Served(directory, workers=workers)

    status = served.end(number, group=group)

    assert status == 0
    assert served.is_gone()
    assert "database system is shut down" in (directory / "postgres" / "postgres.log").read_text()


def test_a_supervisor_that_stops_accepts_no_more_connections() -> None:
    supervisor = serve._Supervisor.__new__(serve._Supervisor)  # without signal handlers
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        supervisor.sockets, supervisor.processes = [listener], []
        supervisor.terminate_all()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_streams_end_so_that_clients_reconnect_and_an_unfinished_request_does_not_keep_the_server(
    workers: int, directory: Path
) -> None:
    served = Served(directory, workers=workers)
    authorization = {"Authorization": f"Bearer {served.tokens['user']}"}
    subscription = {"query": "subscription { balance { version } }"}
    address = served.url.replace("http", "ws", 1) + "/graphql"
    with (
        socket.create_connection(("127.0.0.1", served.port)) as upload,
        httpx.stream(
            "POST",
            f"{served.url}/graphql",
            json=subscription,
            headers={"Accept": "text/event-stream", **authorization},
            timeout=30,
        ) as stream,
        connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], additional_headers=authorization) as ws,
    ):
        upload.sendall(b"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        for message in ({"type": "connection_init"}, {"id": "1", "type": "subscribe", "payload": subscription}):
            ws.send(json.dumps(message))
            ws.recv()
        lines = stream.iter_lines()
        assert next(lines) == "event: next"
        signalled_at = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line.startswith("event:")] == []
        with pytest.raises(ConnectionClosedError) as closed:
            ws.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert served.process.wait(timeout=30) == 0
    assert time.monotonic() - signalled_at < 10
    assert served.end() == 0


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(False, id="the server process"),
        pytest.param(True, id="its process group", marks=pytest.mark.soak),
    ],
)
def test_after_kill_9_no_process_remains_and_the_next_start_gets_the_same_port(group: bool, directory: Path) -> None:
    killed = Served(directory, workers=2)

    assert killed.end(signal.SIGKILL, group=group) == -signal.SIGKILL

    again = Served(directory, port=killed.port)  # at once, without waiting
    assert killed.running() == []
    assert again.end(signal.SIGTERM) == 0
    assert again.is_gone()


def test_an_interrupted_start_leaves_nothing_behind(directory: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve"],
        cwd=REPOSITORY,
        env=environment(DATA_DIR=str(directory), PORT="0"),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (directory / "postgres" / "lock").exists():
        time.sleep(0.01)

    process.terminate()

    assert process.wait(timeout=30) == 0
    assert embedded_postgres.running_url(directory / "postgres") is None
    with embedded_postgres.start(directory / "postgres"):
        pass


def test_the_printed_tokens_are_those_of_the_token_command_and_the_printed_command_works(directory: Path) -> None:
    served = Served(directory)
    try:
        service = run_command("token", "service", "executor", DATA_DIR=str(directory))
        command = served.output.splitlines()[-1]
        pasted = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)  # noqa: S602 - as pasted
    finally:
        served.end(signal.SIGTERM)

    assert service.stdout.strip() in served.output
    assert re.fullmatch(r"ck_[0-9a-f]{16}_[0-9a-f]{64}\n", service.stdout)
    assert '"ownerId":"alice"' in pasted.stdout.replace(" ", "")


def test_production_does_not_migrate_by_itself_and_names_the_command_that_does(directory: Path) -> None:
    with embedded_postgres.start(directory / "postgres") as server:
        production = {
            "ENVIRONMENT": "production",
            "DATABASE_URL": server.url,
            "PORT": "0",
            "LEDGER_KEY": secrets.token_hex(32),
            "SANDBOX_SECRET": "cd" * 32,
            "JWKS_URL": "https://id.example.com/jwks.json",
            "JWT_ISSUER": "https://id.example.com/",
            "PAYMENT_PROVIDER": "none",
            "ALLOWED_HOSTS": "credits.example.com",
        }
        refused = run_process("serve", **production)
        first, second = run_command("migrate", **production), run_command("migrate", **production)
        as_owner = stderr_of_start(**production)
        run_command(
            "migrate", **production | {"DATABASE_URL": server.application_url}, MIGRATION_DATABASE_URL=server.url
        )
        in_its_role = stderr_of_start(**production | {"DATABASE_URL": server.application_url})

    assert refused.returncode == 1
    assert "run `python -m app migrate`" in refused.stderr
    assert first.stdout.startswith("applied 0001_")
    assert first.stdout.endswith("published the default rate card\n")
    assert second.stdout == "there is nothing to do\n"
    assert as_owner.startswith("The database role postgres is a superuser: it can disable triggers")
    assert as_owner.endswith(f"{roles.ADVICE}\n")
    assert in_its_role == ""


def stderr_of_start(**chosen: str) -> str:
    """What a server with these settings has to complain of; its log, of objects a line, left out."""
    command = [*COMMAND, "serve"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(**chosen), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout is not None
        assert served.stdout.readline().startswith("Serving on ")
        served.terminate()
        try:
            _, said = served.communicate(timeout=30)
        finally:
            served.kill()
    assert served.returncode == 0
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("{"))
