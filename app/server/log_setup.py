"""Logging of the process: readable lines in development, one JSON object per line in production.

A JSON record contains time, level and logger. If the logger belongs to the application or uvicorn, the record also
contains the message. For an exception it contains the types and the stack, but not the message of the exception, which
may quote user input or a database row.
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
    """Configure the root logger, and replace an earlier configuration."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("app").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").addFilter(_is_not_invalid_utf8)


def _is_not_invalid_utf8(record: logging.LogRecord) -> bool:
    """Exclude the traceback that uvicorn logs for invalid UTF-8, because clients could flood the log with it."""
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
    """Return the message. Exceptions among its arguments are replaced by their types."""
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
    """Return the qualified type, followed by the SQLSTATE of a database error."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    sqlstate = getattr(error, "sqlstate", None)
    return f"{name} {sqlstate}" if isinstance(sqlstate, str) else name


def _type_names(error: BaseException) -> list[str]:
    """Return the types of an exception and of its causes."""
    names: list[str] = []
    current: BaseException | None = error
    while current is not None and len(names) < _MAX_FRAMES:
        names.append(_type_name(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return names


def _stack(error: BaseException) -> list[str]:
    """Return file, line and function of each frame, the outermost frame first."""
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    return [f"{_short_path(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]


def _short_path(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else "/".join(path.parts[-2:])
