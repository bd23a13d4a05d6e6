"""The key set of the identity provider, fetched over HTTP from a server of the test."""

import asyncio
import json
import logging
import socket
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.auth.jwks import RemoteKeySet, parse_key_set
from app.auth.tokens import TokenVerifier
from app.errors import Unauthenticated, Unavailable
from tests.auth.token_issuer import REQUIREMENTS, claims, key_set, public_jwk, serving, sign

pytestmark = pytest.mark.anyio

OLD, NEW = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
WITH_NEW = json.dumps(key_set(old=OLD, new=NEW)).encode()


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def found(keys: RemoteKeySet, key_id: str) -> bool:
    return await keys.find(key_id) is not None


async def test_a_known_key_is_fetched_once() -> None:
    with serving(key_set(old=OLD)) as server:
        keys = RemoteKeySet(server.url)
        assert [await found(keys, "old") for _ in range(3)] == [True] * 3
    assert server.requests == 1


async def test_concurrent_requests_share_one_fetch() -> None:
    with serving(key_set(old=OLD)) as server:
        keys = RemoteKeySet(server.url)
        assert await asyncio.gather(*(found(keys, "old") for _ in range(20))) == [True] * 20
    assert server.requests == 1


async def test_a_cancelled_request_does_not_cancel_the_fetch_of_others() -> None:
    with serving(key_set(old=OLD)) as server:
        keys = RemoteKeySet(server.url)
        cancelled, waiting = (asyncio.create_task(found(keys, "old")) for _ in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert await waiting
        assert cancelled.cancelled()


async def test_an_unknown_key_id_fetches_again_once_in_30_seconds() -> None:
    clock = Seconds()
    with serving(key_set(old=OLD)) as server:
        keys = RemoteKeySet(server.url, clock=clock)
        assert await found(keys, "old")
        server.serve(key_set(old=OLD, new=NEW))

        clock.now += 29.9
        assert not await found(keys, "new")
        assert server.requests == 1

        clock.now += 0.1
        assert await asyncio.gather(*(found(keys, "new") for _ in range(20))) == [True] * 20
        assert server.requests == 2

        for number in range(50):
            assert not await found(keys, f"invented-{number}")
        assert server.requests == 2

        clock.now += 30
        assert await asyncio.gather(*(found(keys, f"invented-{number}") for number in range(20))) == [False] * 20
    assert server.requests == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, WITH_NEW),
        (404, WITH_NEW),
        (302, WITH_NEW),
        (200, b""),
        (200, b"<html>"),
        (200, b"\xff"),
        (200, b"null"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": {}}'),
        (200, b'{"keys": [null, 1, "x", {}]}'),
        (200, b"[" * 100_000),
        (200, b" " * (1 << 20) + WITH_NEW),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else f"{value[:12]!a}-{len(value)}",
)
async def test_a_failed_fetch_keeps_the_last_good_set(
    status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Seconds()
    with serving(key_set(old=OLD)) as server:
        keys = RemoteKeySet(server.url, clock=clock)
        assert await found(keys, "old")
        server.status, server.body = status, body
        clock.now += 60
        with caplog.at_level(logging.WARNING, logger="app.auth.jwks"):
            assert not await found(keys, "new")
        assert server.requests == 2
        assert "the last good set stays in use" in caplog.text
        assert await found(keys, "old")


async def test_the_last_good_set_is_kept_if_the_server_stops() -> None:
    clock = Seconds()
    with serving(key_set(old=OLD)) as server:
        keys = RemoteKeySet(server.url, clock=clock)
        assert await found(keys, "old")
    clock.now += 60
    assert not await found(keys, "new")
    assert await found(keys, "old")


async def test_an_old_set_is_fetched_again_in_the_background() -> None:
    clock = Seconds()
    with serving(key_set(old=OLD, new=NEW)) as server:
        keys = RemoteKeySet(server.url, clock=clock)
        assert await found(keys, "old")
        server.serve(key_set(new=NEW))
        clock.now += 299
        assert await found(keys, "old")
        assert server.requests == 1
        clock.now += 1
        assert await found(keys, "old")  # the request does not wait for the fetch
        for _ in range(400):
            if not await found(keys, "old"):
                break
            await asyncio.sleep(0.005)
        assert not await found(keys, "old")
    assert server.requests == 2


async def test_without_a_key_set_tokens_are_unavailable_and_the_fetch_is_retried_after_a_second() -> None:
    clock = Seconds()
    token = sign(OLD, claims(), algorithm="EdDSA", key_id="old")
    with serving({}) as server:
        server.status = 503
        verifier = TokenVerifier(RemoteKeySet(server.url, clock=clock), REQUIREMENTS)
        for _ in range(2):
            with pytest.raises(Unavailable, match="try again shortly"):
                await verifier.verify(token)
        assert server.requests == 1
        server.serve(key_set(old=OLD))
        clock.now += 1
        assert (await verifier.verify(token)).owner_id == "alice"


async def test_a_refused_connection_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(Unavailable):
        await RemoteKeySet(f"http://127.0.0.1:{port}/keys").find("old")


async def test_a_rotated_key_is_used_without_a_restart() -> None:
    clock = Seconds()
    with serving(key_set(old=OLD)) as server:
        verifier = TokenVerifier(RemoteKeySet(server.url, clock=clock), REQUIREMENTS)
        await verifier.verify(sign(OLD, claims(), algorithm="EdDSA", key_id="old"))
        server.serve(key_set(new=NEW))
        clock.now += 31
        assert (await verifier.verify(sign(NEW, claims(), algorithm="ES256", key_id="new"))).owner_id == "alice"
        with pytest.raises(Unauthenticated):
            await verifier.verify(sign(OLD, claims(sub="ben"), algorithm="EdDSA", key_id="old"))


def weak_rsa() -> dict[str, Any]:
    return public_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024), "weak")  # noqa: S505 - to be refused


@pytest.mark.parametrize(
    "unusable",
    [
        {**public_jwk(OLD, "other"), "use": "enc"},
        {**public_jwk(OLD, "other"), "alg": "HS256"},
        {**public_jwk(NEW, "other"), "alg": "EdDSA"},
        {**public_jwk(OLD, "other"), "x": "AA"},
        {**public_jwk(OLD, "other"), "kid": 7},
        {**public_jwk(OLD, "other"), "crv": "Ed448"},
        {"kty": "oct", "kid": "other", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "EC", "kid": "other"},
        public_jwk(ec.generate_private_key(ec.SECP384R1()), "other"),
        weak_rsa(),
    ],
    ids=lambda jwk: f"{jwk['kty']}-{jwk.get('alg', '')}-{jwk.get('crv', '')}",
)
async def test_unusable_keys_are_left_out(unusable: dict[str, Any]) -> None:
    assert [key.key_id for key in parse_key_set({"keys": [unusable, public_jwk(OLD, "old")]})] == ["old"]
    with pytest.raises(ValueError, match="no usable key"):
        parse_key_set({"keys": [unusable]})


async def test_the_key_family_decides_the_algorithms() -> None:
    strong = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    algorithms = {key.key_id: key.algorithms for key in parse_key_set(key_set(rsa=strong, ec=NEW, ed=OLD))}
    assert algorithms == {"rsa": ("RS256", "PS256"), "ec": ("ES256",), "ed": ("EdDSA",)}
