"""The keys of the ledger: one signs new entries, the others verify entries that were signed before.

For each purpose, a separate key is derived from a ledger key by HKDF-SHA256. The id of a ledger key is derived too, and
reveals nothing about the key. Each entry contains the id of the ledger key that signed it, so the key can be rotated.
Before keys were derived, the ledger key itself signed entries, without an id, and receipts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_KEY_BYTES: Final = 32
ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True, repr=False)
class LedgerKey:
    """A ledger key (`original`) and the keys derived from it. `id` has 8 hexadecimal digits."""

    id: str
    entries: bytes
    receipts: bytes
    webhook_secrets: bytes
    original: bytes

    @classmethod
    def derive(cls, key: bytes) -> Self:
        """Raises: ValueError: the key is shorter than 32 bytes."""
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"a ledger key must have at least {MIN_KEY_BYTES} bytes")
        return cls(
            id=_derive(key, "key id", ID_BYTES).hex(),
            entries=_derive(key, "entries", 32),
            receipts=_derive(key, "receipts", 32),
            webhook_secrets=_derive(key, "webhook secrets", 32),
            original=key,
        )

    def __repr__(self) -> str:
        return f"LedgerKey(id={self.id!r})"


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """The key that signs, and all keys that verify (by id; the signing key is the first)."""

    signing: LedgerKey
    by_id: Mapping[str, LedgerKey] = field(repr=False)

    @classmethod
    def derive(cls, signing: bytes, others: Iterable[bytes] = ()) -> Self:
        """Raises: ValueError: a key is too short."""
        keys = [LedgerKey.derive(key) for key in (signing, *others)]
        return cls(keys[0], {key.id: key for key in keys})


def _derive(key: bytes, purpose: str, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=f"credits ledger: {purpose}".encode()).derive(key)
