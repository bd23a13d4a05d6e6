"""Messages for failed commands, which say what is wrong and what to do.

A command that fails with any other exception prints the traceback.
"""

from typing import Final

from pydantic import ValidationError

from app.db.embedded_postgres import EmbeddedPostgresError
from app.db.failures import is_database_failure, is_file_error, sqlstate
from app.errors import BillingError, Misconfigured, RequestError

SECRET_WORDS: Final = ("KEY", "SECRET", "URL")
"""The values of settings with such a word in their name are not printed."""
INSUFFICIENT_PRIVILEGE: Final = "42501"


def message_for(error: Exception) -> str | None:
    match error:
        case BillingError() | RequestError() | Misconfigured() | EmbeddedPostgresError():
            return str(error)
        case ValidationError():
            return "\n".join(settings_errors(error))
        case _ if sqlstate(error) == INSUFFICIENT_PRIVILEGE:
            return (
                f"The database role lacks a privilege: {error}. `python -m app migrate` with MIGRATION_DATABASE_URL "
                "set grants the application's privileges. What the application may never do, run as the owner."
            )
        case _:
            return _io_error(error)


def _io_error(error: Exception) -> str | None:
    if isinstance(error, OSError) and is_file_error(error):
        file = "A file" if error.filename is None else f"The file {error.filename}"
        return f"{file} cannot be read or written ({error.strerror}): check its path, permissions and the free space."
    if is_database_failure(error):
        return f"The database cannot be reached ({error}): start it, check DATABASE_URL, or unset it."
    return None


def settings_errors(error: ValidationError) -> list[str]:
    """Return a message for each setting that cannot be parsed. It does not contain the value of a secret."""
    return [_settings_error(dict(problem)) for problem in error.errors()]


def _settings_error(problem: dict[str, object]) -> str:
    location = problem["loc"]
    name = str(location[0]).upper() if isinstance(location, tuple) and location else "The settings"
    value = "" if any(word in name for word in SECRET_WORDS) else f" (it is {problem['input']!r})"
    return f"{name}: {problem['msg']}{value}."
