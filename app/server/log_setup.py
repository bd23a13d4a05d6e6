"""Logging of the process: readable lines in development, one JSON object per line in production.

JSON records are redacted by an allow-list: time, level and logger; the message, for the application's and uvicorn's
loggers only; for an exception its types and the stack, without its message, which may quote user input or a database
row.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from app.server.request_log import LogFormat

_LOGGERS_WITH_MESSAGE: Final = ("app", "uvicorn")
_ROOT: Final = Path(__file__).resolve().parents[2]
_MAX_FRAMES: Final = 30


def configure_logging(format: LogFormat) -> None:
    """Configure the root logger. Replaces an earlier configuration."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("app").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").addFilter(_is_not_invalid_utf8)


def _is_not_invalid_utf8(record: logging.LogRecord) -> bool:
    """False for the traceback that uvicorn logs for each message with invalid UTF-8. Clients could flood the log with
    it."""
    return record.msg != "Invalid UTF-8 sequence received from client."


class JsonFormatter(logging.Formatter):
    """Formats a record as one redacted JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
        }
        if record.name.partition(".")[0] in _LOGGERS_WITH_MESSAGE:
            line["message"] = _message(record)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["error"] = _type_names(error)
            line["stack"] = _stack(error)
        return orjson.dumps(line).decode()


def _message(record: logging.LogRecord) -> str:
    """The message, with the type of each exception among its arguments instead of the exception's own message."""
    arguments = record.args
    try:
        if isinstance(arguments, tuple):
            return str(record.msg) % tuple(_redacted(argument) for argument in arguments)
        return str(record.msg)  # the application passes no mapping as arguments
    except (TypeError, ValueError):
        return str(record.msg)


def _redacted(argument: object) -> object:
    return _type_name(argument) if isinstance(argument, BaseException) else argument


def _type_name(error: BaseException) -> str:
    """The qualified type, followed by the SQLSTATE of a database error."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    sqlstate = getattr(error, "sqlstate", None)
    return f"{name} {sqlstate}" if isinstance(sqlstate, str) else name


def _type_names(error: BaseException) -> list[str]:
    """The types of an exception and of its causes."""
    names: list[str] = []
    current: BaseException | None = error
    while current is not None and len(names) < _MAX_FRAMES:
        names.append(_type_name(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return names


def _stack(error: BaseException) -> list[str]:
    """The traceback, outermost frame first: file, line and function, without source lines."""
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    return [f"{_short_path(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]


def _short_path(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else "/".join(path.parts[-2:])
