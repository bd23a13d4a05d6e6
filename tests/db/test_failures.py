"""Which exceptions mean that the database cannot be reached. Errors of files do not."""

import errno
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from app.db.database_url import connection_arguments
from app.db.failures import is_connection_failure, is_file_error

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "url", ["postgresql:///postgres?host=/no/such/directory", "postgresql://127.0.0.1:1/postgres"], ids=["unix", "tcp"]
)
async def test_a_server_that_does_not_listen_is_a_connection_failure(url: str) -> None:
    with pytest.raises(OSError, match=r"No such file|Connect call failed") as raised:
        await asyncpg.connect(**connection_arguments(url), timeout=5)

    assert (is_connection_failure(raised.value), is_file_error(raised.value)) == (True, False)


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        ConnectionResetError(),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        OSError("Multiple exceptions: [Errno 111] Connect call failed"),
        TimeoutError(),
        asyncpg.AdminShutdownError("terminating connection"),
    ],
    ids=repr,
)
def test_failures_of_a_connection(failure: Exception) -> None:
    assert (is_connection_failure(failure), is_file_error(failure)) == (True, False)


def open_missing() -> None:
    Path("/no/such/file").read_bytes()


def make_below_a_file() -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name, "below").mkdir(parents=True)


def write_to_a_full_disk() -> None:
    Path("/dev/full").write_text("x")


@pytest.mark.parametrize("fail", [open_missing, make_below_a_file, write_to_a_full_disk])
def test_failures_of_files(fail: Callable[[], None]) -> None:
    with pytest.raises(OSError, match=r"No such file|Not a directory|No space left") as raised:
        fail()

    assert (is_connection_failure(raised.value), is_file_error(raised.value)) == (False, True)
