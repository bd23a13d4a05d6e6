"""What a person can do about a command that failed. Anything not listed is a fault of ours and keeps its traceback."""

from typing import Final

import asyncpg
from pydantic import ValidationError

from app.db import failures
from app.db.embedded_postgres import EmbeddedPostgresError
from app.errors import BillingError, Misconfigured, RequestError

SECRET_WORDS: Final = ("KEY", "SECRET", "URL")
"""Settings with these words in their names are not repeated on a screen."""


INSUFFICIENT_PRIVILEGE: Final = "42501"


def message_for(fault: Exception) -> str | None:
    match fault:
        case BillingError() | RequestError() | Misconfigured() | EmbeddedPostgresError():
            return str(fault)
        case ValidationError():
            return "\n".join(settings_errors(fault))
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InvalidCatalogNameError():
            return f"The database refuses: {fault}. Check user, password and database name in DATABASE_URL."
        case _ if failures.sqlstate(fault) == INSUFFICIENT_PRIVILEGE:
            return (
                f"The database refuses: {fault}. `python -m app migrate`, run with the owner's MIGRATION_DATABASE_URL, "
                "lets DATABASE_URL's role do what the application does; what it may never do, run as the owner."
            )
        case _ if failures.is_connection_failure(fault):
            return f"The database cannot be reached ({fault}): start it, check DATABASE_URL, or unset it."
        case _:
            return None


def settings_errors(fault: ValidationError) -> list[str]:
    """What is wrong with each setting that cannot be read, without what must not be repeated on a screen."""
    return [_setting(dict(problem)) for problem in fault.errors()]


def _setting(problem: dict[str, object]) -> str:
    location = problem["loc"]
    name = str(location[0]).upper() if isinstance(location, tuple) and location else "The settings"
    told = "" if any(word in name for word in SECRET_WORDS) else f" (it is {problem['input']!r})"
    return f"{name}: {problem['msg']}{told}."
