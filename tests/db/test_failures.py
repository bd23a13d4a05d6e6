"""The answer to each failure of the database, and which exceptions are none (files, wrong use)."""

import asyncio
import errno
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from tortoise.connection import get_connection

from app.db import pools
from app.db.database_url import connection_arguments
from app.db.failures import (
    ANSWERS,
    Answer,
    answer_to,
    is_connection_failure,
    is_database_failure,
    is_file_error,
    run_with_retries,
    sqlstate,
)
from tests.command_line import url_for_role

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


SQLSTATES = [
    ("08006", Answer.UNAVAILABLE), ("08P01", Answer.UNAVAILABLE), ("0A000", None), ("0L000", None),
    ("22003", None), ("22P02", None), ("23505", None), ("25006", Answer.UNAVAILABLE), ("25P02", None),
    ("25P03", Answer.UNAVAILABLE), ("25P04", Answer.TIMED_OUT), ("26000", Answer.RETRY), ("28P01", Answer.UNAVAILABLE),
    ("3D000", Answer.UNAVAILABLE), ("40001", Answer.RETRY), ("40002", None), ("40003", Answer.UNAVAILABLE),
    ("40P01", Answer.RETRY), ("42501", None), ("42601", None), ("42P01", None), ("53000", Answer.UNAVAILABLE),
    ("53100", Answer.UNAVAILABLE), ("53200", Answer.UNAVAILABLE), ("53300", Answer.UNAVAILABLE),
    ("53400", Answer.UNAVAILABLE), ("54000", None), ("55000", None), ("55P03", Answer.UNAVAILABLE),
    ("57014", Answer.TIMED_OUT), ("57P01", Answer.UNAVAILABLE), ("57P02", Answer.UNAVAILABLE),
    ("57P03", Answer.UNAVAILABLE), ("57P04", Answer.UNAVAILABLE), ("58030", Answer.UNAVAILABLE),
    ("72000", Answer.UNAVAILABLE), ("P0001", None), ("XX000", None), ("XX001", None), ("XX002", None),
]  # fmt: skip


@pytest.mark.parametrize(("state", "answer"), SQLSTATES)
async def test_the_answer_to_an_sqlstate_of_the_server(db: str, state: str, answer: Answer | None) -> None:
    with pytest.raises(asyncpg.PostgresError) as raised:
        await pools.fetch(f"DO $$ BEGIN RAISE EXCEPTION 'provoked' USING ERRCODE = '{state}'; END $$")

    assert (sqlstate(raised.value), answer_to(raised.value)) == (state, answer)
    assert is_database_failure(raised.value) is (answer is not None)


def test_each_row_of_the_table_of_answers_is_tested() -> None:
    assert {key for key in ANSWERS if not any(state.startswith(key) for state, _ in SQLSTATES)} == set()


async def wait_for_a_lock(url: str) -> None:
    async with pools.transaction() as connection, pools.transaction() as other:
        await connection.execute_query("LOCK TABLE rate_card")
        await other.execute_query("SET LOCAL lock_timeout = '10ms'")
        await other.execute_query("SELECT FROM rate_card")


async def exceed_the_time_limit(url: str) -> None:
    async with pools.transaction() as connection:
        await connection.execute_query("SET LOCAL statement_timeout = '10ms'")
        await connection.execute_query("SELECT pg_sleep(5)")


async def write_in_a_read_only_transaction(url: str) -> None:
    async with pools.transaction() as connection:
        await connection.execute_query("SET TRANSACTION READ ONLY")
        await connection.execute_query("SELECT nextval('account_id_seq')")


async def lose_prepared_statements(url: str) -> None:
    async with pools.transaction() as connection:
        await connection.execute_query("SELECT 1")
        await connection.execute_query("DEALLOCATE ALL")
        await connection.execute_query("SELECT 1")


async def be_terminated(url: str) -> None:
    await pools.fetch("SELECT pg_terminate_backend(pg_backend_pid())")


async def be_cancelled(url: str) -> None:
    await pools.fetch("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)")


async def connect_to_a_database_that_does_not_exist(url: str) -> None:
    await asyncpg.connect(**connection_arguments(urlunsplit(urlsplit(url)._replace(path="/nowhere"))))


async def connect_too_often(url: str) -> None:
    with suppress(asyncpg.DuplicateObjectError):
        await pools.fetch("CREATE ROLE crowded LOGIN PASSWORD 'crowded' CONNECTION LIMIT 0")
    await asyncpg.connect(**connection_arguments(url_for_role(url, "crowded", "crowded")))


async def deadlock(url: str) -> None:
    async def lock(first: int, second: int) -> None:
        async with pools.transaction() as connection:
            await connection.execute_query("SET LOCAL deadlock_timeout = '10ms'")
            await connection.execute_query("SELECT pg_advisory_xact_lock($1)", [first])
            await asyncio.sleep(0.05)
            await connection.execute_query("SELECT pg_advisory_xact_lock($1)", [second])

    results = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)
    raise next(one for one in results if one is not None)


@pytest.mark.parametrize(
    ("provoke", "state", "answer"),
    [
        (wait_for_a_lock, "55P03", Answer.UNAVAILABLE),
        (exceed_the_time_limit, "57014", Answer.TIMED_OUT),
        (be_cancelled, "57014", Answer.TIMED_OUT),
        (write_in_a_read_only_transaction, "25006", Answer.UNAVAILABLE),
        (lose_prepared_statements, "26000", Answer.RETRY),
        (be_terminated, "08003", Answer.UNAVAILABLE),  # the server's 57P01 is its cause
        (connect_to_a_database_that_does_not_exist, "3D000", Answer.UNAVAILABLE),
        (connect_too_often, "53300", Answer.UNAVAILABLE),
        (deadlock, "40P01", Answer.RETRY),
    ],
)
async def test_the_answer_to_a_real_failure(
    db: str, provoke: Callable[[str], Awaitable[None]], state: str, answer: Answer
) -> None:
    with pytest.raises(asyncpg.PostgresError) as raised:
        await provoke(db)

    assert (sqlstate(raised.value), answer_to(raised.value)) == (state, answer)
    assert [dict(record) for record in await pools.fetch("SELECT 1 AS one")] == [{"one": 1}]


async def pass_too_many_arguments(url: str) -> None:
    await pools.fetch("SELECT 1", 2)


async def pass_a_wrong_type(url: str) -> None:
    await pools.fetch("SELECT $1::int", "no number")


async def pass_a_number_that_is_too_large(url: str) -> None:
    await pools.fetch("SELECT $1::int", 2**40)


async def execute_two_statements_at_once(url: str) -> None:
    async with pools.transaction() as connection:
        await asyncio.gather(*[connection.execute_query("SELECT 1") for _ in range(2)])


@pytest.mark.parametrize(
    "misuse",
    [pass_too_many_arguments, pass_a_wrong_type, pass_a_number_that_is_too_large, execute_two_statements_at_once],
)
async def test_wrong_use_of_asyncpg_is_a_fault_of_this_program(
    db: str, misuse: Callable[[str], Awaitable[None]]
) -> None:
    with pytest.raises((asyncpg.InterfaceError, asyncpg.DataError)) as raised:
        await misuse(db)

    assert answer_to(raised.value) is None


async def stay_idle_in_a_transaction(url: str) -> None:
    async with pools.transaction() as connection:
        await connection.execute_query("SET LOCAL idle_in_transaction_session_timeout = '10ms'")
        await asyncio.sleep(0.2)
        await connection.execute_query("SELECT 1")


async def use_a_closed_connection(url: str) -> None:
    async with get_connection("default").acquire_connection() as connection:
        closed = connection._con
        closed.terminate()
        await closed.fetch("SELECT 1")


async def use_a_connection_that_was_closed_in_a_pool(url: str) -> None:
    async with get_connection("default").acquire_connection() as connection:
        connection.terminate()
        await connection.fetch("SELECT 1")


async def use_a_transaction_of_a_closed_connection(url: str) -> None:
    connection = await asyncpg.connect(**connection_arguments(url))
    transaction = connection.transaction()
    await transaction.start()
    connection.terminate()
    await transaction.commit()


async def use_a_closed_pool(url: str) -> None:
    pool = await asyncpg.create_pool(**connection_arguments(url), min_size=1, max_size=1)
    await pool.close()
    await pool.fetch("SELECT 1")


async def use_a_pool_that_is_closing(url: str) -> None:
    pool = await asyncpg.create_pool(**connection_arguments(url), min_size=1, max_size=1)
    async with pool.acquire() as connection:
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0)
        try:
            await pool.fetch("SELECT 1")
        finally:
            await pool.release(connection)
            await closing


@pytest.mark.parametrize(
    "use",
    [
        stay_idle_in_a_transaction,
        use_a_closed_connection,
        use_a_connection_that_was_closed_in_a_pool,
        use_a_transaction_of_a_closed_connection,
        use_a_closed_pool,
        use_a_pool_that_is_closing,
    ],
)
async def test_a_closed_connection_or_pool_is_a_failure_of_the_database(
    db: str, use: Callable[[str], Awaitable[None]]
) -> None:
    with pytest.raises(asyncpg.InterfaceError) as raised:
        await use(db)

    assert answer_to(raised.value) is Answer.UNAVAILABLE


@pytest.mark.parametrize(
    ("failure", "answer"),
    [
        (TimeoutError(), Answer.TIMED_OUT),
        (asyncpg.InternalClientError("got result for unknown protocol state"), Answer.UNAVAILABLE),
        (asyncpg.OutdatedSchemaCacheError("cached type"), Answer.RETRY),
        (ConnectionResetError(), Answer.UNAVAILABLE),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), None),
        (ValueError("a bug"), None),
    ],
    ids=repr,
)
def test_the_answer_to_a_failure_of_the_client(failure: Exception, answer: Answer | None) -> None:
    assert answer_to(failure) is answer


async def test_a_failure_that_lasts_is_raised_after_six_attempts() -> None:
    attempts = 0

    async def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise asyncpg.DeadlockDetectedError("deadlock detected")

    with pytest.raises(asyncpg.DeadlockDetectedError):
        await run_with_retries(fail)

    assert attempts == 6
