"""WebSocket frames (RFC 6455), as little of them as a client of GraphQL needs: whole short texts, pings, the end."""

import secrets
from typing import Final

TEXT: Final = 1
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

Frame = tuple[int, bytes]
"""(opcode, payload)"""

_SHORT: Final = 126
"""From here on a length stands in two bytes of its own."""
_MEDIUM: Final = 1 << 16
"""From here on in eight."""


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame: whole, and masked with a random key as the protocol asks."""
    size = len(payload)
    if size < _SHORT:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < _MEDIUM:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    key = secrets.token_bytes(4)
    stretched = (key * (size // 4 + 1))[:size]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
    return head + key + hidden.to_bytes(size, "big")


class Frames:
    """What a server sends, cut into frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises: ValueError: a frame is masked, or part of a longer message."""
        data = self._rest + data if self._rest else data
        frames: list[Frame] = []
        at = 0
        while (found := _bounds(data, at)) is not None:
            begin, end = found
            frames.append((data[at] & 0x0F, data[begin:end]))
            at = end
        self._rest = data[at:]
        return frames


def _bounds(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `at` begins and ends; None: not all of it is there yet."""
    if len(data) < at + 2:
        return None
    first, size = data[at], data[at + 1]
    if size & 0x80:
        raise ValueError("the server masked a frame")
    if not first & 0x80 or first & 0x0F == 0:
        raise ValueError("the server sent a message in parts")
    begin = at + 2
    if size >= _SHORT:
        width = 2 if size == _SHORT else 8
        begin += width
        if len(data) < begin:
            return None
        size = int.from_bytes(data[begin - width : begin], "big")
    return (begin, begin + size) if len(data) >= begin + size else None
