"""Idempotency keys.

A key is unique in its account. It is stored with the hash of the request and the ids of the result.

A request that takes several transactions stores its progress in each of them, in a new row. The keys of these rows
contain a space, so that no caller can use them. Rows are never changed: the row of the last step is valid.
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

_FIND_PROGRESS: Final = """
    SELECT result FROM operation WHERE account_id = $1 AND key > $2 AND key < $3 ORDER BY key DESC LIMIT 1
"""

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


async def find_progress(posting: Posting, account: AccountState, key: str) -> dict[str, Any] | None:
    """Return what `save_progress` saved last for this key, or None."""
    values = [account.account_id, _progress_key(key, 0), _progress_key(key, None)]
    _, records = await posting.connection.execute_query(_FIND_PROGRESS, values)
    result: dict[str, Any] | None = json.loads(records[0]["result"]) if records else None
    return result


def save_progress(
    posting: Posting,
    account: AccountState,
    key: str,
    *,
    step: int,
    kind: str,
    request_hash: bytes,
    result: Mapping[str, Any],
) -> None:
    """Save the progress of a request in one of its transactions. `step` numbers the transactions from 1."""
    save_result(posting, account, _progress_key(key, step), kind=kind, request_hash=request_hash, result=result)


def _progress_key(key: str, step: int | None) -> str:
    """Return the key of a step. `step=None` returns a key that sorts after all steps."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return f"progress {digest} " + ("~" if step is None else f"{step:012}")
