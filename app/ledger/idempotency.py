"""Idempotency keys.

A key is unique in its account. It is stored with the hash of the request and the ids of the result.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import orjson

from app.db.set_writes import SetStatement
from app.errors import IdempotencyConflict
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountState

_FIND: Final = "SELECT request_hash, result FROM operation WHERE account_id = $1 AND key = $2"

_INSERT: Final = SetStatement(
    "operations",
    """
    INSERT INTO operation (account_id, key, kind, request_hash, result, at)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::jsonb[], $6::timestamptz[])
    RETURNING 1
    """,
    6,
)


def hash_request(kind: str, request: Mapping[str, Any]) -> bytes:
    """Return the first 16 bytes of SHA-256 over the canonical input. The order of its keys does not matter."""
    canonical = orjson.dumps([kind, request], option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z, default=str)
    return hashlib.sha256(canonical).digest()[:16]


async def find_result(posting: Posting, account: AccountState, key: str, request_hash: bytes) -> dict[str, Any] | None:
    """Return the result ids of an earlier request with this key, or None if the key is new.

    The statement runs after the account was locked, so it sees a request that has just committed.
    Raises: IdempotencyConflict: the key was used for a different request.
    """
    _, records = await posting.connection.execute_query(_FIND, [account.account_id, key])
    if not records:
        return None
    if bytes(records[0]["request_hash"]) != request_hash:
        raise IdempotencyConflict(key=key)
    result: dict[str, Any] = json.loads(records[0]["result"])
    return result


def save_result(
    posting: Posting,
    account: AccountState,
    key: str,
    *,
    kind: str,
    request_hash: bytes,
    result: Mapping[str, Any],
) -> None:
    """Save the key with the ids of its result, in the transaction of the operation."""
    values = (account.account_id, key, kind, request_hash, orjson.dumps(result).decode(), account.at)
    posting.write.add(_INSERT, values)
