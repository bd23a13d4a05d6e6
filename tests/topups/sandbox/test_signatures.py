"""Signatures of sandbox events: the body, the secret and the time that they prove."""

import pytest

from app.topups.provider import InvalidProviderEvent
from app.topups.sandbox.events import sign, verify

BODY = b'{"id": "evt_1"}'
SECRET = b"one secret"
AT = 1_767_225_600


@pytest.mark.parametrize("age", [0, 300, -300])
def test_an_event_signed_within_the_tolerance_is_accepted(age: int) -> None:
    verify(BODY, sign(BODY, SECRET, at_seconds=AT), SECRET, now_seconds=AT + age)


@pytest.mark.parametrize("age", [300.5, -300.5, 10**9])
def test_events_signed_too_long_ago_or_in_the_future_are_refused(age: float) -> None:
    with pytest.raises(InvalidProviderEvent, match="more than 300 seconds from now"):
        verify(BODY, sign(BODY, SECRET, at_seconds=AT), SECRET, now_seconds=AT + age)


@pytest.mark.parametrize("body", [b"", BODY + b" ", b'{"id":"evt_1"}', BODY.replace(b"1", b"2")])
def test_another_body_is_refused_even_with_equal_json(body: bytes) -> None:
    with pytest.raises(InvalidProviderEvent, match="does not belong to this body"):
        verify(body, sign(BODY, SECRET, at_seconds=AT), SECRET, now_seconds=AT)


def test_another_secret_and_another_time_are_refused() -> None:
    with pytest.raises(InvalidProviderEvent, match="does not belong"):
        verify(BODY, sign(BODY, b"another secret", at_seconds=AT), SECRET, now_seconds=AT)
    moved = sign(BODY, SECRET, at_seconds=AT).replace(str(AT), str(AT + 1))
    with pytest.raises(InvalidProviderEvent, match="does not belong"):
        verify(BODY, moved, SECRET, now_seconds=AT)


def test_an_unsigned_event_is_refused() -> None:
    with pytest.raises(InvalidProviderEvent, match="is not signed"):
        verify(BODY, None, SECRET, now_seconds=AT)


@pytest.mark.parametrize(
    "header",
    ["", "t=,v1=", f"v1={'0' * 64}", f"t={AT}", f"t={AT},v1={'0' * 63}", f"t=-{AT},v1={'0' * 64}",
     f"t=²,v1={'0' * 64}", f"t={AT},v1={'0' * 64},v1={'0' * 64}", f"t={'9' * 400},v1={'0' * 64}", "é"],
)  # fmt: skip
def test_a_signature_of_another_form_is_refused(header: str) -> None:
    with pytest.raises(InvalidProviderEvent, match="cannot be read"):
        verify(BODY, header, SECRET, now_seconds=AT)
