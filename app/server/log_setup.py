"""How the process logs: in development lines to read, in production one JSON object a line, redacted by allow-list.

In production a record has its time, level, logger, text and, of a fault, the types and the places it passed. The text
is kept of our own loggers and the server's, where the words are ours; a fault in it is written as its type, for its own
words may quote what somebody sent, or a row. Other loggers' texts are left out.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from app.server.request_log import LogFormat

_TRUSTED: Final = ("app", "uvicorn")
_ROOT: Final = Path(__file__).resolve().parent.parent
_MOST_PLACES: Final = 30


def configure_logging(format: LogFormat) -> None:
    """Set up the process's logging; again, if it was before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("app").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """A message that is no UTF-8 is its sender's fault: uvicorn writes a traceback of it, as often as one is sent."""
    return record.msg != "Invalid UTF-8 sequence received from client."


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
        }
        if record.name.partition(".")[0] in _TRUSTED:
            line["text"] = _text(record)
        fault = record.exc_info[1] if record.exc_info else None
        if fault is not None:
            line["fault"] = _chain(fault)
            line["places"] = _places(fault)
        return orjson.dumps(line).decode()


def _text(record: logging.LogRecord) -> str:
    """The record's words, with the type of each fault in place of what it says."""
    given = record.args
    try:
        if isinstance(given, tuple):
            return str(record.msg) % tuple(_shown(one) for one in given)
        return str(record.msg)  # a mapping is not filled in: none of ours has one
    except (TypeError, ValueError):
        return str(record.msg)


def _shown(value: object) -> object:
    return _name(value) if isinstance(value, BaseException) else value


def _name(fault: BaseException) -> str:
    """Its type, and the SQLSTATE of a fault of the database's."""
    state = getattr(fault, "sqlstate", None)
    kind = type(fault)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} {state}" if isinstance(state, str) else name


def _chain(fault: BaseException) -> list[str]:
    """The types of a fault and of what caused it."""
    names: list[str] = []
    found: BaseException | None = fault
    while found is not None and len(names) < _MOST_PLACES:
        names.append(_name(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return names


def _places(fault: BaseException) -> list[str]:
    """Where it passed, outermost first: file, line and function, without the lines' text."""
    frames = traceback.extract_tb(fault.__traceback__)[-_MOST_PLACES:]
    return [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else "/".join(path.parts[-2:])
