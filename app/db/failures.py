"""Failures of the database, and the answers to them.

A failure of the database has one of three answers. Any other exception is a fault of this program (INTERNAL).

RETRY        the transaction was rolled back and runs again unchanged; if it still fails, the answer is UNAVAILABLE
UNAVAILABLE  the database cannot be used now: it is unreachable, read-only or full, or a lock was not released in time
TIMED_OUT    a statement took too long

For UNAVAILABLE and TIMED_OUT the outcome may be unknown, because the connection may be lost while COMMIT is executed.
The same request can always be sent again: it carries a key, and a request that was executed is answered with its first
result.
"""

import asyncio
import errno
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import StrEnum
from typing import Final, TypeVar

import asyncpg

T = TypeVar("T")


class Answer(StrEnum):
    RETRY = "RETRY"
    UNAVAILABLE = "UNAVAILABLE"
    TIMED_OUT = "TIMED_OUT"


READ_ONLY: Final = "25006"
LOCK_NOT_AVAILABLE: Final = "55P03"
QUERY_CANCELED: Final = "57014"

ANSWERS: Final[dict[str, Answer | None]] = {
    "08": Answer.UNAVAILABLE,  # connection exception
    "0A000": None,  # feature not supported, except a cached statement after DDL, see `answer_to`
    READ_ONLY: Answer.UNAVAILABLE,  # read-only transaction: a standby, or a primary during a failover
    "25P03": Answer.UNAVAILABLE,  # idle in transaction for too long
    "25P04": Answer.TIMED_OUT,  # transaction_timeout
    "26000": Answer.RETRY,  # the session does not have the prepared statement
    "28": Answer.UNAVAILABLE,  # a new connection is refused: password, pg_hba.conf
    "3D000": Answer.UNAVAILABLE,  # a new connection is refused: the database does not exist
    "40001": Answer.RETRY,  # serialization failure
    "40003": Answer.UNAVAILABLE,  # statement completion unknown
    "40P01": Answer.RETRY,  # deadlock
    "53": Answer.UNAVAILABLE,  # no disk space, memory or connections left
    LOCK_NOT_AVAILABLE: Answer.UNAVAILABLE,  # lock_timeout
    "57": Answer.UNAVAILABLE,  # operator intervention: shutdown, crash, start
    QUERY_CANCELED: Answer.TIMED_OUT,  # statement_timeout, or cancelled by an administrator
    "58": Answer.UNAVAILABLE,  # error outside PostgreSQL, such as of its disk
    "72": Answer.UNAVAILABLE,  # snapshot too old
}
"""The answer to each SQLSTATE or class of SQLSTATEs (its first two characters). Those that are missing are INTERNAL."""

LOST_SQLSTATES: Final = frozenset({"08", READ_ONLY, "25P03", "25P04", "26000", "57P"})
"""Prefixes of the SQLSTATEs after which a connection is useless: its session has ended, cannot write, or has lost its
prepared statements."""

_CLOSED_MESSAGES: Final = (
    "connection is closed",  # also "the underlying connection is closed"
    "released back to the pool",
    "pool is closed",
    "pool is closing",
    "another operation is cancelling",
)
"""Parts of the messages with which asyncpg reports a closed connection or pool.

It raises the same class, InterfaceError, if a statement is called with wrong arguments.
"""

_FILE_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
"""Errors of a write to a file. Python does not add the file's name to them."""


class PartialFailure(Exception):
    """A read of many accounts failed for some of them. A read of the others alone can succeed.

    `by_account` contains the failure of each account that failed.
    """

    def __init__(self, by_account: Mapping[int, Exception]) -> None:
        super().__init__(f"accounts {', '.join(map(str, by_account))} failed")
        self.by_account = by_account


class AccountsLocked(Exception):
    """Another transaction has locked these accounts for too long. Nothing was changed."""

    def __init__(self, account_ids: Collection[int]) -> None:
        self.account_ids = frozenset(account_ids)
        ids = ", ".join(map(str, sorted(self.account_ids)))
        super().__init__(f"another transaction has locked account {ids}")


class NoConnection(ConnectionError):
    """No connection was free or could be opened in time. Nothing was executed."""


def sqlstate(failure: BaseException | None) -> str | None:
    """Return the SQLSTATE of an exception, even if Tortoise wrapped it."""
    error = _postgres_error(failure)
    return None if error is None else str(error.sqlstate)


def _postgres_error(failure: BaseException | None) -> asyncpg.PostgresError | None:
    while failure is not None:
        if isinstance(failure, asyncpg.PostgresError):
            return failure
        wrapped = failure.args[0] if failure.args else None
        failure = wrapped if isinstance(wrapped, BaseException) else failure.__cause__
    return None


def answer_to(failure: BaseException) -> Answer | None:
    """Return the answer to a failure of the database, or None if the exception is something else."""
    answer: Answer | None = None
    match _postgres_error(failure) or failure:
        case asyncpg.InvalidCachedStatementError() | asyncpg.OutdatedSchemaCacheError():
            answer = Answer.RETRY  # after DDL; asyncpg has emptied its caches
        case asyncpg.PostgresError(sqlstate=str(state)):
            answer = ANSWERS[state] if state in ANSWERS else ANSWERS.get(state[:2])
        case TimeoutError():
            answer = Answer.TIMED_OUT
        case asyncpg.InterfaceError():
            if any(text in str(failure) for text in _CLOSED_MESSAGES):
                answer = Answer.UNAVAILABLE
        case asyncpg.InternalClientError():
            answer = Answer.UNAVAILABLE  # asyncpg's error if the connection is lost while a query is being sent
        case AccountsLocked():
            answer = Answer.UNAVAILABLE
        case ExceptionGroup(exceptions=several):
            answers = [answer_to(one) for one in several]
            answer = None if None in answers else answers[0]
        case OSError() if not is_file_error(failure):
            answer = Answer.UNAVAILABLE
    return answer


def is_database_failure(failure: BaseException) -> bool:
    """Return whether the database has failed. The request is not the cause, and a retry may succeed."""
    return answer_to(failure) is not None


def is_connection_failure(failure: BaseException) -> bool:
    """Return whether the failure concerns the whole database.

    A lock or a time limit may concern a single account, so a sweep over many accounts can continue with the others.
    """
    if isinstance(failure, AccountsLocked) or sqlstate(failure) in (LOCK_NOT_AVAILABLE, QUERY_CANCELED):
        return False
    return is_database_failure(failure)


def log_failure(log: logging.Logger, failure: BaseException, text: str, *values: object) -> None:
    """Log what failed: with a traceback, or in one line if the database is the cause."""
    if is_database_failure(failure):
        while isinstance(failure, ExceptionGroup):
            failure = failure.exceptions[0]
        log.warning("%s: %s", text % values, str(failure) or type(failure).__name__)
    else:
        log.error(text, *values, exc_info=failure)


def is_connection_lost(failure: BaseException) -> bool:
    """Return whether the connection that raised `failure` cannot be used any more."""
    state = sqlstate(failure)
    return state is not None and state.startswith(tuple(LOST_SQLSTATES))


def is_file_error(failure: BaseException) -> bool:
    """Return whether an OSError concerns a file. An error of a socket, also of a Unix socket, contains no file name."""
    return isinstance(failure, OSError) and (failure.filename is not None or failure.errno in _FILE_ERRNOS)


async def run_with_retries(operation: Callable[[], Awaitable[T]], *, attempts: int = 6) -> T:
    """Run `operation`, and repeat it after a failure whose answer is RETRY, after a short random wait."""
    for attempt in range(1, attempts + 1):
        try:
            return await operation()
        except Exception as failure:
            if attempt == attempts or answer_to(failure) is not Answer.RETRY:
                raise
        await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311  not used for security
    raise AssertionError("unreachable: the last attempt returns or raises")
