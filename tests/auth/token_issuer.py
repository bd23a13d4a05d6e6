"""An identity provider for tests: key pairs, tokens, and a key set over HTTP."""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.auth.jwks import StaticKeys, VerificationKey, parse_key_set
from app.auth.tokens import TokenRequirements

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

REQUIREMENTS = TokenRequirements(issuer="https://id.example", audience="credits", admin_role="credits-admin")
ALICE = "alice"


def public_jwk(private_key: PrivateKey, key_id: str | None) -> dict[str, Any]:
    if isinstance(private_key, RSAPrivateKey):
        written = RSAAlgorithm.to_jwk(private_key.public_key())
    elif isinstance(private_key, EllipticCurvePrivateKey):
        written = ECAlgorithm.to_jwk(private_key.public_key())
    else:
        written = OKPAlgorithm.to_jwk(private_key.public_key())
    return {**json.loads(written), "use": "sig"} | ({} if key_id is None else {"kid": key_id})


def key_set(**private_keys: PrivateKey) -> dict[str, Any]:
    return {"keys": [public_jwk(private_key, key_id) for key_id, private_key in private_keys.items()]}


def fixed(**private_keys: PrivateKey) -> StaticKeys:
    return StaticKeys(parse_key_set(key_set(**private_keys)))


def claims(
    changed: Mapping[str, object] | None = None, *, without: str | None = None, **more: object
) -> dict[str, Any]:
    """The claims of a valid token of alice, with `changed` and `more`."""
    now = datetime.now(UTC)
    whole = {
        "sub": ALICE,
        "iss": REQUIREMENTS.issuer,
        "aud": REQUIREMENTS.audience,
        "iat": now,
        "exp": now + timedelta(hours=1),
        **(changed or {}),
        **more,
    }
    return {name: value for name, value in whole.items() if name != without}


def sign(private_key: PrivateKey, payload: dict[str, Any], *, algorithm: str, key_id: str | None = "one") -> str:
    """A signed token. The claims may have wrong types, which a JWT library would not sign."""
    body = json.dumps(payload, default=lambda moment: int(moment.timestamp())).encode()
    return jwt.PyJWS().encode(body, private_key, algorithm, headers=None if key_id is None else {"kid": key_id})


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class CountingKeys(StaticKeys):
    """Static keys that count calls of `find` and can be replaced."""

    def __init__(self, keys: tuple[VerificationKey, ...]) -> None:
        super().__init__(keys)
        self.finds = 0

    async def find(self, key_id: str | None) -> VerificationKey | None:
        self.finds += 1
        return await super().find(key_id)

    def replace(self, keys: tuple[VerificationKey, ...]) -> None:
        self._keys = keys


class KeySetServer:
    """A server whose response can be changed. `requests` counts the requests it received."""

    def __init__(self, document: object) -> None:
        self.body = json.dumps(document).encode()
        self.status = 200
        self.requests = 0
        self.url = ""

    def serve(self, document: object) -> None:
        self.status, self.body = 200, json.dumps(document).encode()


@contextmanager
def serving(document: object) -> Iterator[KeySetServer]:
    state = KeySetServer(document)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            self.send_response(state.status)
            self.send_header("content-length", str(len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
