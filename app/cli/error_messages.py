"""Messages for failed commands, which say what is wrong and what to do.

A command that fails with any other exception prints the traceback.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from app.db.embedded_postgres import EmbeddedPostgresError
from app.db.failures import is_connection_failure, is_database_failure, is_file_error, sqlstate
from app.errors import BillingError, Misconfigured, RequestError
from app.wording import quote_value, reason_of

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
                "set grants the privileges that the application needs. For anything else, use the owner's URL."
            )
        case _:
            return _io_error(error)


def _io_error(error: Exception) -> str | None:
    if isinstance(error, OSError) and is_file_error(error):
        file = "A file" if error.filename is None else f"The file {error.filename}"
        return f"{file} cannot be read or written ({error.strerror}): check its path, permissions and the free space."
    if is_connection_failure(error):
        return f"The database cannot be reached ({reason_of(error)}): start it, check DATABASE_URL, or unset it."
    if is_database_failure(error):
        return f"The database stopped the command ({reason_of(error)}): run it again."
    return None


def settings_errors(error: ValidationError) -> list[str]:
    """Return a message for each setting that cannot be parsed. It does not contain the value of a secret."""
    return [_settings_error(dict(problem)) for problem in error.errors()]


_RULES: Final[Mapping[str, str]] = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
"""The texts for pydantic's types of errors."""


def _settings_error(problem: dict[str, Any]) -> str:
    name = str(problem["loc"][0]).upper() if problem["loc"] else "The settings"
    value = "" if any(word in name for word in SECRET_WORDS) else f" (it is {quote_value(problem['input'])})"
    rule = _RULES.get(problem["type"])
    if rule is None:  # a check of our own
        return f"{name}: {problem['msg']}{value}."
    limits = {key: f"{limit:g}" if isinstance(limit, float) else limit for key, limit in problem.get("ctx", {}).items()}
    limits |= {"expected": str(limits.get("expected", "")).replace("'", "")}
    return f"{name} {rule.format_map(limits)}{value}."
