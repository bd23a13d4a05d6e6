"""The supervisor of several workers: which workers are started again."""

import socket
from typing import Any

import pytest
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from app.cli import serve


class Worker:
    """A worker process that ends when a test says so."""

    started: list["Worker"]

    def __init__(self, *_: Any) -> None:
        self.exitcode: int | None = None
        self.pid = len(Worker.started) + 1

    def start(self) -> None:
        Worker.started.append(self)

    def is_alive(self, **_: Any) -> bool:
        return self.exitcode is None

    def kill(self) -> None: ...

    def join(self) -> None: ...


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> serve._Supervisor:
    Worker.started = []
    monkeypatch.setattr(multiprocess, "Process", Worker)
    monkeypatch.setattr(serve, "Process", Worker)
    monkeypatch.setattr(multiprocess, "SIGNALS", {})  # its handlers are not installed in this process
    made = serve._Supervisor(uvicorn.Config("app", workers=2, log_config=None), sockets=list[socket.socket]())
    made.init_processes()
    return made


def test_a_replaced_worker_that_cannot_start_is_started_again(supervisor: serve._Supervisor) -> None:
    first, second = Worker.started
    first.exitcode = -9
    supervisor.keep_subprocess_alive()
    replacement = Worker.started[2]
    replacement.exitcode = STARTUP_FAILURE

    supervisor.keep_subprocess_alive()

    assert not supervisor.should_exit.is_set()
    assert list(map(id, supervisor.processes)) == [id(Worker.started[3]), id(second)]


def test_a_first_worker_that_cannot_start_stops_the_server(supervisor: serve._Supervisor) -> None:
    Worker.started[1].exitcode = STARTUP_FAILURE

    supervisor.keep_subprocess_alive()

    assert supervisor.should_exit.is_set()
    assert len(Worker.started) == 2
