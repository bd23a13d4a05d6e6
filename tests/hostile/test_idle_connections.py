"""A WebSocket that is never authenticated. It is opened together with the server, so that no test waits for its end."""

from app.engine.transports.websocket import INIT_SECONDS
from tests.hostile.server_under_test import Target


def test_a_websocket_without_connection_init_is_closed(target: Target) -> None:
    code, seconds = target.silent_connection.result(timeout=60)
    assert code == 4408
    assert seconds >= INIT_SECONDS * 0.9
