"""A WebSocket connection that never says who it is. It was opened with the server, so that nobody waits for its end."""

from app.engine.transports.websocket import INIT_SECONDS
from tests.hostile.server_under_test import Target


def test_a_connection_that_never_says_who_it_is_is_closed(target: Target) -> None:
    code, seconds = target.mute.result(timeout=60)
    assert code == 4408
    assert seconds >= INIT_SECONDS * 0.9
