"""Messages that no client of graphql-transport-ws sends, and the code with which each closes its connection.

The tests of the transport send them without a network, and those in `hostile` send them to a running server.
"""

import json
from collections.abc import Sequence
from typing import Any, Final


def message(**parts: Any) -> str:
    return json.dumps(parts)


def subscribe(id: Any = "1", payload: Any = None) -> str:
    return message(id=id, type="subscribe", payload={"query": QUERY} if payload is None else payload)


QUERY: Final = "{ __typename }"
INIT: Final = message(type="connection_init")
PING: Final = message(type="ping")
HUGE: Final = 70_000
MANY: Final = dict.fromkeys(map(str, range(999)))
DEEP: Final[Any] = {"a": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}
CLOSING: Final[dict[str, tuple[int, Sequence[str]]]] = {
    "empty": (4400, [""]),
    "broken JSON": (4400, ['{"type": "connection_init"']),
    "not JSON": (4400, ["connection_init"]),
    "a list": (4400, ["[]"]),
    "null": (4400, ["null"]),
    "a number": (4400, ["42"]),
    "a number of thousands of digits": (4400, ["1" * 5_000]),
    "a string": (4400, ['"connection_init"']),
    "null as type": (4400, [message(type=None)]),
    "a number of thousands of digits in a payload": (4400, [f'{{"type": "ping", "payload": {{"n": {"9" * 5_000}}}}}']),
    "NaN": (4400, ['{"type": NaN}']),
    "no type": (4400, ["{}"]),
    "type of another type": (4400, [message(type=["ping"])]),
    "unknown type": (4400, [message(type="start")]),
    "the server's type": (4400, [message(type="connection_ack")]),
    "null byte in the type": (4400, [message(type="ping\x00")]),
    "null byte in the text": (4400, ["{\x00}"]),
    "lone surrogate": (4400, ['{"type": "ping", "payload": "\\ud800"}']),
    "huge": (1009, [message(type="ping", payload={"a": "x" * HUGE})]),
    "huge in bytes alone": (1009, [message(type="ping", payload={"a": "☃"}).replace("\\u2603", "☃" * 22_000)]),
    "far over the limit": (1009, [message(type="ping", payload={"a": "x" * 10_000_000})]),
    "far over the limit after others": (1009, [INIT, PING, PING, message(type="ping", payload={"a": "x" * 5_000_000})]),
    "ping payload of another type": (4400, [message(type="ping", payload="now")]),
    "pong payload of another type": (4400, [message(type="pong", payload=[1])]),
    "deep": (4400, ["[" * 60_000]),
    "deep, and whole": (4400, ['{"type": "ping", "payload": ' + "[" * 30_000 + "]" * 30_000 + "}"]),
    "init of another type": (4400, [message(type="connection_init", payload="Bearer x")]),
    "init of a list": (4400, [message(type="connection_init", payload=[])]),
    "init of a number": (4400, [message(type="connection_init", payload=5)]),
    "init twice": (4429, [INIT, INIT]),
    "init with no token": (4403, [message(type="connection_init", payload={"authorization": "Bearer a.b.c"})]),
    "init with a token of another type": (4403, [message(type="connection_init", payload={"authorization": [1]})]),
    "init with an empty token": (4403, [message(type="connection_init", payload={"token": ""})]),
    "init with a number as token": (4403, [message(type="connection_init", payload={"token": 5})]),
    "init with another scheme": (4403, [message(type="connection_init", payload={"authorization": "Basic YTpi"})]),
    "init with a null byte": (4403, [message(type="connection_init", payload={"authorization": "Bearer \x00"})]),
    "subscribe before init": (4401, [subscribe()]),
    "no id": (4400, [INIT, message(type="subscribe", payload={"query": QUERY})]),
    "empty id": (4400, [INIT, subscribe("")]),
    "id of another type": (4400, [INIT, subscribe(7)]),
    "no payload": (4400, [INIT, message(id="1", type="subscribe")]),
    "payload of another type": (4400, [INIT, subscribe(payload=["query"])]),
    "no query": (4400, [INIT, subscribe(payload={"variables": {}})]),
    "query of another type": (4400, [INIT, subscribe(payload={"query": {}})]),
    "operation name of another type": (4400, [INIT, subscribe(payload={"query": QUERY, "operationName": 1})]),
    "variables of another type": (4400, [INIT, subscribe(payload={"query": QUERY, "variables": "a"})]),
    "too many variables": (4400, [INIT, subscribe(payload={"query": "", "variables": MANY})]),
    "deep variables": (4400, [INIT, subscribe(payload={"query": "", "variables": DEEP})]),
    "complete of no id": (4400, [INIT, message(type="complete")]),
    "complete of another type": (4400, [INIT, message(id=1, type="complete")]),
}  # fmt: skip
"""The close code, and the messages that are sent."""
