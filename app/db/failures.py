"""Failures of the database: which of them mean that it cannot be reached, and which transactions can run again."""

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import asyncpg

T = TypeVar("T")

RETRIED_SQLSTATES: Final = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: the transaction was rolled back and can run again unchanged."""

CONNECTION_FAILURE_SQLSTATES: Final = frozenset({"57P01", "57P02", "57P03", "53300", "25006"})
"""The server shuts down, starts, has no connection left or is read-only: the request is not the cause."""


_FILE_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
"""Errors of a write to a file. Python does not add the file's name to them."""


class PartialFailure(Exception):
    """A read of many accounts failed for some of them. The others can be read without these.

    `by_account` contains the failure of each account that failed.
    """

    def __init__(self, by_account: Mapping[int, Exception]) -> None:
        super().__init__(f"accounts {', '.join(map(str, by_account))} failed")
        self.by_account = by_account


def sqlstate(failure: BaseException | None) -> str | None:
    """Return the SQLSTATE of an exception, even if Tortoise wrapped it."""
    while failure is not None:
        if isinstance(failure, asyncpg.PostgresError):
            return str(failure.sqlstate)
        wrapped = failure.args[0] if failure.args else None
        failure = wrapped if isinstance(wrapped, BaseException) else failure.__cause__
    return None


def is_connection_failure(failure: BaseException) -> bool:
    """Return whether the database could not be reached. The request is not the cause, and a retry may succeed."""
    state = sqlstate(failure)
    if state is not None:
        return state.startswith("08") or state in CONNECTION_FAILURE_SQLSTATES
    if is_file_error(failure):
        return False
    return isinstance(failure, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError | TimeoutError)


def is_file_error(failure: BaseException) -> bool:
    """Return whether an OSError concerns a file. An error of a socket, also of a Unix socket, contains no file name."""
    return isinstance(failure, OSError) and (failure.filename is not None or failure.errno in _FILE_ERRNOS)


async def run_with_retries(operation: Callable[[], Awaitable[T]], *, attempts: int = 6) -> T:
    """Run `operation`, and repeat it after a deadlock or a serialization failure, after a short random wait."""
    for attempt in range(1, attempts + 1):
        try:
            return await operation()
        except Exception as failure:
            if attempt == attempts or sqlstate(failure) not in RETRIED_SQLSTATES:
                raise
        await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311  not used for security
    raise AssertionError("unreachable: the last attempt returns or raises")
