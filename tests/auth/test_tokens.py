"""Which tokens are accepted, and the callers they identify."""

import asyncio
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from app.auth.caller import Caller, CallerKind, Scope
from app.auth.jwks import parse_key_set
from app.auth.tokens import TokenVerifier
from app.errors import RejectedCredential
from tests.auth.token_issuer import REQUIREMENTS, CountingKeys, PrivateKey, claims, encoded, fixed, key_set, sign

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = Ed25519PrivateKey.generate()
ADMIN = "credits-admin"
WRONG_ALGORITHM = "signature algorithm that does not fit the key"


def verified(token: str, **private_keys: PrivateKey) -> Caller:
    return asyncio.run(TokenVerifier(fixed(**(private_keys or {"one": ED})), REQUIREMENTS).verify(token))


def refusal(token: str, **private_keys: PrivateKey) -> str:
    """The reason for which a token is rejected. The message is the same for all."""
    with pytest.raises(RejectedCredential) as refused:
        verified(token, **private_keys)
    assert str(refused.value) == "The credential is not accepted: sign in again, or send a valid service key."
    return refused.value.reason


def encode_token(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(part, default=lambda now: int(now.timestamp())).encode() for part in (header, payload))
    return ".".join([*map(encoded, parts), encoded(signature)])


@pytest.mark.parametrize(("private_key", "algorithm"), [(RSA, "RS256"), (RSA, "PS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_a_token_of_every_supported_algorithm_is_accepted(private_key: PrivateKey, algorithm: str) -> None:
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    token = sign(private_key, claims(exp=expires_at, organisations=["acme", "beta"]), algorithm=algorithm)
    assert verified(token, one=private_key) == Caller(
        kind=CallerKind.USER,
        actor="user:alice",
        owner_id="alice",
        organisations=frozenset({"acme", "beta"}),
        expires_at=expires_at,
        key_id="one",
    )


def test_the_admin_role_makes_an_operator() -> None:
    caller = verified(sign(ED, claims(sub="carol", roles=["reader", "credits-admin"]), algorithm="EdDSA"))
    assert (caller.kind, caller.actor, caller.scopes) == (
        CallerKind.OPERATOR,
        "operator:carol",
        frozenset({Scope.ADMIN}),
    )


@pytest.mark.parametrize("roles", ["not-credits-admin-at-all", ["credits-admins"], [], None, ["CREDITS-ADMIN"]])
def test_a_role_is_compared_as_a_whole(roles: object) -> None:
    caller = verified(sign(ED, claims(roles=roles), algorithm="EdDSA"))
    assert (caller.kind, caller.scopes) == (CallerKind.USER, frozenset())


def test_organisations_that_are_no_valid_ids_are_ignored() -> None:
    names = ["acme", "", "a\x00b", "two words", "zero\u200bwidth", "\u3164", "x" * 256]

    caller = verified(sign(ED, claims(organisations=names), algorithm="EdDSA"), one=ED)

    assert caller.organisations == {"acme"}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("acme", {"acme"}),
        (["acme", "beta"], {"acme", "beta"}),
        ({"acme": {"id": "1"}, "beta": True, "gamma": False, "delta": None}, {"acme", "beta"}),
        ([1, "acme", ["beta"], None], {"acme"}),
        (7, set()),
        (True, set()),
        ({}, set()),
        (None, set()),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_a_claim_with_names_is_a_string_a_list_or_an_object_and_never_rejects_a_token(
    value: object, names: set[str]
) -> None:
    assert verified(sign(ED, claims(organisations=value), algorithm="EdDSA")).organisations == names


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("roles", {"roles": ["credits-admin"]}),
        ("realm_access.roles", {"realm_access": {"roles": ["credits-admin"]}}),
        ("resource_access.credits.roles", {"resource_access": {"credits": {"roles": ["credits-admin"]}}}),
        ("https://app.example/roles", {"https://app.example/roles": "credits-admin"}),
        ("https://app.example/claims.roles", {"https://app.example/claims": {"roles": {"credits-admin": 1}}}),
        ("a.b", {"a": {"b": ["other"]}, "a.b": ["credits-admin"]}),
    ],
)
def test_a_claim_is_named_by_its_name_or_by_a_dotted_path(path: str, value: dict[str, object]) -> None:
    verifier = TokenVerifier(fixed(one=ED), replace(REQUIREMENTS, roles_claim=path))
    caller = asyncio.run(verifier.verify(sign(ED, claims(value), algorithm="EdDSA")))
    assert caller.kind is CallerKind.OPERATOR


@pytest.mark.parametrize(
    "value", [{}, {"realm_access": None}, {"realm_access": ["roles"]}, {"realm_access": {"roles": 7}}, {"roles": ADMIN}]
)
def test_a_missing_or_unexpected_nested_claim_makes_a_user(value: dict[str, object]) -> None:
    verifier = TokenVerifier(fixed(one=ED), replace(REQUIREMENTS, roles_claim="realm_access.roles"))
    caller = asyncio.run(verifier.verify(sign(ED, claims(value), algorithm="EdDSA")))
    assert caller.kind is CallerKind.USER


def test_an_unexpected_type_of_an_unused_claim_is_accepted() -> None:
    assert verified(sign(ED, claims(jti=7, azp=[1], scope={}), algorithm="EdDSA")).owner_id == "alice"


@pytest.mark.parametrize("name", ["exp", "iat", "sub", "iss"])
def test_every_required_claim_is_required(name: str) -> None:
    for payload in (claims(without=name), claims({name: None})):
        assert refusal(sign(ED, payload, algorithm="EdDSA")) == f"token without the claim {name}"


def test_an_expired_token_is_refused() -> None:
    now = datetime.now(UTC)
    expired = claims(iat=now - timedelta(hours=1), exp=now - timedelta(seconds=6))
    assert refusal(sign(ED, expired, algorithm="EdDSA")) == "expired token"


def test_clocks_may_differ_by_a_few_seconds() -> None:
    now = datetime.now(UTC)
    token = sign(ED, claims(iat=now + timedelta(seconds=3), exp=now - timedelta(seconds=2)), algorithm="EdDSA")
    assert verified(token).owner_id == "alice"


ISSUER = "wrong issuer (JWT_ISSUER)"
AUDIENCE = "wrong audience (JWT_AUDIENCE)"
EARLY = "token that is not valid yet"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("iss", "https://id.example/", ISSUER),
        ("iss", "https://ID.example", ISSUER),
        ("iss", "https://id.example.evil.example", ISSUER),
        ("iss", ["https://id.example"], ISSUER),
        ("aud", "credit", AUDIENCE),
        ("aud", "credits2", AUDIENCE),
        ("aud", "Credits", AUDIENCE),
        ("aud", ["other"], AUDIENCE),
        ("aud", 7, AUDIENCE),
        ("aud", None, AUDIENCE),
        ("iat", datetime.now(UTC) + timedelta(minutes=30), EARLY),
        ("nbf", datetime.now(UTC) + timedelta(minutes=30), EARLY),
        ("exp", "tomorrow", "malformed token"),
        ("exp", 1e300, "malformed token"),
        ("exp", float("inf"), "malformed token"),
        ("exp", float("nan"), "malformed token"),
        ("iat", "yesterday", "malformed token"),
        ("sub", 7, "invalid sub claim"),
    ],
    ids=lambda value: "ahead" if isinstance(value, datetime) else str(value),
)
def test_a_token_with_a_wrong_claim_is_refused_with_its_reason(name: str, value: object, reason: str) -> None:
    assert refusal(sign(ED, claims({name: value}), algorithm="EdDSA")) == reason


@pytest.mark.parametrize("sub", ["", "a" * 256, "al ice", "alice\n", "a\x00b"])
def test_the_subject_has_1_to_255_visible_characters(sub: str) -> None:
    reason = "sub claim that is not 1 to 255 visible characters"
    assert refusal(sign(ED, claims(sub=sub), algorithm="EdDSA")) == reason


def test_one_of_several_audiences_may_match() -> None:
    assert verified(sign(ED, claims(aud=["other", "credits"]), algorithm="EdDSA")).owner_id == "alice"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", ""])
def test_an_unsigned_token_is_refused(alg: str) -> None:
    assert refusal(encode_token({"alg": alg, "typ": "JWT", "kid": "one"}, claims())) == WRONG_ALGORITHM


@pytest.mark.parametrize("private_key", [RSA, EC, ED], ids=["RSA", "EC", "Ed25519"])
@pytest.mark.parametrize("form", ["PEM", "JWK"])
def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_refused(private_key: PrivateKey, form: str) -> None:
    if form == "JWK":
        secret = json.dumps(key_set(one=private_key)["keys"][0]).encode()
    else:
        secret = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = encode_token({"alg": "HS256", "typ": "JWT", "kid": "one"}, claims()).rsplit(".", 1)[0]
    signature = hmac.new(secret, unsigned.encode(), hashlib.sha256).digest()
    assert refusal(f"{unsigned}.{encoded(signature)}", one=private_key) == WRONG_ALGORITHM


def test_a_key_does_not_accept_algorithms_of_another_family() -> None:
    assert refusal(sign(RSA, claims(), algorithm="RS256"), one=EC) == WRONG_ALGORITHM
    assert refusal(sign(EC, claims(), algorithm="ES256"), one=ED) == WRONG_ALGORITHM
    assert refusal(sign(RSA, claims(), algorithm="RS512"), one=RSA) == WRONG_ALGORITHM


def test_a_key_with_an_algorithm_accepts_no_other() -> None:
    bound = CountingKeys(parse_key_set({"keys": [{**key_set(one=RSA)["keys"][0], "alg": "PS256"}]}))
    verifier = TokenVerifier(bound, REQUIREMENTS)
    assert asyncio.run(verifier.verify(sign(RSA, claims(), algorithm="PS256"))).owner_id == "alice"
    with pytest.raises(RejectedCredential):
        asyncio.run(verifier.verify(sign(RSA, claims(), algorithm="RS256")))


def test_a_token_signed_by_another_key_is_refused_whatever_its_key_id() -> None:
    stranger = Ed25519PrivateKey.generate()
    assert refusal(sign(stranger, claims(), algorithm="EdDSA", key_id="one")) == "bad signature"
    assert refusal(sign(stranger, claims(), algorithm="EdDSA", key_id="two")) == "unknown signing key"
    assert refusal(sign(stranger, claims(), algorithm="EdDSA", key_id=None)) == "bad signature"


def test_without_a_key_id_only_a_single_key_is_used() -> None:
    token = sign(ED, claims(), algorithm="EdDSA", key_id=None)
    assert verified(token, one=ED).owner_id == "alice"
    assert refusal(token, one=ED, two=EC) == "unknown signing key"


GOOD = sign(ED, claims(), algorithm="EdDSA")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d",
        GOOD + ".",
        GOOD.rsplit(".", 1)[0],
        GOOD.rsplit(".", 1)[0] + ".",
        "x" * 8193,
        "é" + GOOD,
        "\ud800",
        encoded(b"[" * 5000) + ".e30.",
        encoded(b"null") + ".e30.",
        encoded(b'{"alg":"EdDSA","kid":' + b"9" * 5000 + b"}") + ".e30.",
        encoded(b'{"alg":"EdDSA","kid":["one"]}') + ".e30.AA",
        encoded(b'{"alg":["EdDSA"],"kid":"one"}') + ".e30.AA",
        encoded(b'{"alg":"EdDSA","kid":"one","crit":["exp"]}') + "." + GOOD.split(".", 1)[1],
    ],
    ids=lambda token: token[:20].encode("ascii", "replace").decode() + f"-{len(token)}",
)
def test_a_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(RejectedCredential):
        verified(token)


def test_malformed_claims_are_refused_even_if_signed() -> None:
    for payload in (b"[" * 4000, b"null", b"[]", b'"sub"', b'{"exp":' + b"9" * 5000 + b"}", b"\xff\xfe"):
        unsigned = f"{GOOD.split('.', 1)[0]}.{encoded(payload)}"
        assert refusal(f"{unsigned}.{encoded(ED.sign(unsigned.encode()))}") == "malformed token"


@runs(max_examples=60, deadline=None)
@given(place=st.integers(0, len(GOOD) - 2), to=st.sampled_from("ABCxyz019-_."))
def test_a_token_with_one_character_changed_is_refused(place: int, to: str) -> None:
    # The last character is not claims_: its low bits are unused.
    claims_ = GOOD[:place] + to + GOOD[place + 1 :]
    if claims_ != GOOD:
        refusal(claims_)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.mark.anyio
async def test_a_token_is_verified_once_and_then_cached() -> None:
    keys = CountingKeys(parse_key_set(key_set(one=ED)))
    verifier = TokenVerifier(keys, REQUIREMENTS)
    assert [await verifier.verify(GOOD) for _ in range(3)] == [await verifier.verify(GOOD)] * 3
    assert keys.finds == 1


@pytest.mark.anyio
async def test_a_cached_token_expires() -> None:
    clock, keys = Clock(), CountingKeys(parse_key_set(key_set(one=ED)))
    verifier = TokenVerifier(keys, REQUIREMENTS, now=clock)
    token = sign(ED, claims(exp=clock.now.replace(microsecond=0) + timedelta(seconds=60)), algorithm="EdDSA")
    await verifier.verify(token)
    clock.advance(seconds=63)
    assert (await verifier.verify(token)).owner_id == "alice"  # within the clock skew
    clock.advance(seconds=2)
    for _ in range(2):
        with pytest.raises(RejectedCredential, match="not accepted"):
            await verifier.verify(token)


@pytest.mark.anyio
async def test_a_cached_token_is_refused_after_its_key_was_withdrawn() -> None:
    clock, keys = Clock(), CountingKeys(parse_key_set(key_set(one=ED)))
    verifier = TokenVerifier(keys, REQUIREMENTS, now=clock)
    await verifier.verify(GOOD)
    keys.replace(parse_key_set(key_set(two=EC)))
    clock.advance(minutes=4, seconds=59)
    assert (await verifier.verify(GOOD)).owner_id == "alice"
    clock.advance(seconds=1)
    with pytest.raises(RejectedCredential):
        await verifier.verify(GOOD)


@pytest.mark.anyio
async def test_the_least_recently_used_token_is_evicted() -> None:
    keys = CountingKeys(parse_key_set(key_set(one=ED)))
    verifier = TokenVerifier(keys, REQUIREMENTS, cache_size=2)
    first, second, third = (sign(ED, claims(sub=name), algorithm="EdDSA") for name in ("ann", "ben", "cleo"))
    for token in (first, second, first, third):
        await verifier.verify(token)
    assert keys.finds == 3
    await verifier.verify(first)
    assert keys.finds == 3
    assert (await verifier.verify(second)).owner_id == "ben"
    assert keys.finds == 4


@pytest.mark.anyio
async def test_a_refused_token_is_not_cached() -> None:
    keys = CountingKeys(parse_key_set(key_set(two=EC)))
    verifier = TokenVerifier(keys, REQUIREMENTS)
    with pytest.raises(RejectedCredential):
        await verifier.verify(GOOD)
    keys.replace(parse_key_set(key_set(one=ED)))
    assert (await verifier.verify(GOOD)).owner_id == "alice"
