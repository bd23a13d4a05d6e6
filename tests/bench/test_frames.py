"""The subscribers' WebSocket frames, against the sans-I/O protocol of the websockets library."""

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from bench.frames import CLOSE, PING, TEXT, Frames, masked

SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 70_000)


def from_server(opcode: Opcode, payload: bytes) -> bytes:
    return Frame(opcode, payload).serialize(mask=False)


def as_read_by_a_server(data: bytes) -> Frame:
    reader = StreamReader()
    reader.feed_data(data)
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    frame: Frame = parsed.value.value
    return frame


@pytest.mark.parametrize("size", SIZES)
def test_a_server_reads_what_was_masked(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))

    frame = as_read_by_a_server(masked(TEXT, payload))

    assert (frame.opcode, frame.data, frame.fin) == (Opcode.TEXT, payload, True)


def test_a_mask_is_another_each_time() -> None:
    assert len({masked(TEXT, b"hello") for _ in range(10)}) > 1


@pytest.mark.parametrize("size", SIZES)
def test_a_servers_frame_is_read(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))

    assert Frames().feed(from_server(Opcode.TEXT, payload)) == [(TEXT, payload)]


def test_frames_are_read_however_they_are_cut() -> None:
    sent = [(TEXT, b"one"), (PING, b""), (TEXT, b"x" * 300), (CLOSE, b"\x03\xe8")]
    data = b"".join(from_server(Opcode(opcode), payload) for opcode, payload in sent)

    for width in range(1, len(data) + 1):
        frames = Frames()
        cut = [frames.feed(data[at : at + width]) for at in range(0, len(data), width)]
        assert [frame for some in cut for frame in some] == sent


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (Frame(Opcode.TEXT, b"hello").serialize(mask=True), "masked"),
        (Frame(Opcode.TEXT, b"hel", fin=False).serialize(mask=False), "in parts"),
        (Frame(Opcode.CONT, b"lo").serialize(mask=False), "in parts"),
    ],
    ids=["masked", "the first part", "the last part"],
)
def test_what_no_server_of_the_bench_sends_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Frames().feed(data)
