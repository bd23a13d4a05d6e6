"""Encryption of the endpoints' secrets at rest, so that a copy of the database does not allow forging webhooks."""

import base64
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class SecretBox:
    """Encrypts with the first key, and decrypts with any of them. The keys have 32 bytes."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = [AESGCM(key) for key in keys]

    def seal(self, secret: bytes, endpoint_id: str) -> bytes:
        """Encrypt the secret of an endpoint. `open` decrypts it only for the same endpoint."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, secret, endpoint_id.encode())

    def open(self, sealed: bytes, endpoint_id: str) -> bytes:
        """Decrypt the secret of an endpoint. Raises: UnknownSecretKey: it was encrypted with none of the keys."""
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], endpoint_id.encode())
            except InvalidTag:
                continue
        raise UnknownSecretKey(endpoint_id)


class UnknownSecretKey(Exception):
    """The secret of this endpoint was encrypted with a key that is not configured any more."""


def format_secret(secret: bytes) -> str:
    """Return the secret as receivers configure it: whsec_<base64>."""
    return f"whsec_{base64.b64encode(secret).decode()}"
