"""Replaces an owner id by a pseudonym, in one transaction."""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from app.audit_log import records
from app.audit_log.records import AuditContext
from app.db import pools
from app.db.pools import Connection
from app.db.set_writes import SetWrite
from app.erasure.columns import ENTRY_COLUMNS, JSON_COLUMNS, TEXT_COLUMNS
from app.errors import InvalidInput
from app.ledger import posting
from app.ledger.rows import ENTRIES
from app.ledger.rules import hash_chain
from app.ledger.rules.account_state import LedgerEntry
from app.wording import counted

_LOCK: Final = "SELECT * FROM account WHERE id = (SELECT account_id FROM owner WHERE owner_id = $1) FOR UPDATE"
_UNFINISHED: Final = """
    SELECT (SELECT count(*) FROM task WHERE account_id = $1 AND status = 'RUNNING') AS "running task",
           (SELECT count(*) FROM hold WHERE account_id = $1 AND status = 'OPEN') AS "open hold",
           (SELECT count(*) FROM top_up WHERE account_id = $1 AND status = 'PENDING') AS "pending top-up",
           (SELECT count(*) FROM top_up_refund WHERE account_id = $1 AND status = 'PENDING') AS "pending refund",
           (SELECT count(*) FROM dispute WHERE account_id = $1 AND status = 'OPEN') AS "open dispute"
"""
_REFERENCES: Final = """
    SELECT ref FROM (
        SELECT unnest(ARRAY[account_id || '-' || id, provider_ref, payment_ref]) AS ref
            FROM top_up WHERE account_id = $1
        UNION SELECT unnest(ARRAY[account_id || '-' || id, refund_ref]) FROM top_up_refund WHERE account_id = $1
        UNION SELECT payment_ref FROM provider_payment WHERE account_id = $1
        UNION SELECT dispute_ref FROM dispute WHERE account_id = $1
        UNION SELECT customer_ref FROM payment_customer WHERE account_id = $1
    ) AS found WHERE ref IS NOT NULL
"""
_EVENTS: Final = """
    SELECT event_id, handled_at IS NOT NULL AS is_handled FROM provider_event AS n
    WHERE EXISTS (SELECT FROM unnest($1::text[]) AS ref WHERE position('"' || ref || '"' IN n.body::text) > 0)
"""
_ENTRIES: Final = f"SELECT {ENTRIES.columns('e')} FROM entry AS e WHERE e.account_id = $1 ORDER BY e.seq"  # noqa: S608  our own constant
_REWRITE_ENTRIES: Final = f"""
    UPDATE entry AS e SET mac = v.mac, key_id = v.key_id, {", ".join(f"{name} = v.{name}" for name in ENTRY_COLUMNS)}
    FROM unnest($2::bigint[], $3::bytea[], $4::text[], {", ".join(f"${n}::text[]" for n in range(5, 10))})
        AS v(seq, mac, key_id, {", ".join(ENTRY_COLUMNS)})
    WHERE e.account_id = $1 AND e.seq = v.seq
"""  # noqa: S608  our own constants
_ENTRIES_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased. `customers` are the account's customers at payment providers, where they still exist."""

    account_id: int
    pseudonym: str
    seq: int
    mac: bytes
    customers: list[str]


async def erase_owner(owner_id: str, *, reason: str, audit: AuditContext) -> Erasure | None:
    """Replace the owner id everywhere, in one transaction. `pools.connect` must be called first, as the owner role.

    Returns: None if the owner has no account. Raises: InvalidInput: a task, payment or event is not finished.
    """
    pseudonym = f"erased-{secrets.token_hex(12)}"
    pattern = owner_pattern(owner_id)

    def substitute(text: str) -> str:
        return re.sub(pattern, pseudonym, text)

    async with pools.transaction() as connection:
        _, found = await connection.execute_query(_LOCK, [owner_id])
        if not found:
            return None
        account_id = found[0]["id"]
        await connection.execute_query("SELECT set_config('credits.erased_account', $1, true)", [str(account_id)])
        await _check_finished(connection, account_id)
        mac = await _rewrite_entries(connection, account_id, substitute)
        await _replace_in_texts(connection, account_id, pattern, pseudonym)
        await _replace_in_json(connection, account_id, owner_id, substitute)
        customers = await _remove_payment_data(connection, account_id)
        await connection.execute_query(
            "UPDATE account SET owner_id = $2, last_mac = coalesce($3, last_mac) WHERE id = $1",
            [account_id, pseudonym, mac],
        )
        await connection.execute_query("UPDATE owner SET owner_id = $2 WHERE owner_id = $1", [owner_id, pseudonym])
        write = SetWrite()
        records.append_record(write, audit, subject=f"owner {pseudonym}", account_id=account_id, reason=reason)
        await write.execute(connection)
        return Erasure(account_id, pseudonym, found[0]["seq"], mac or bytes(found[0]["last_mac"]), customers)


def owner_pattern(owner_id: str) -> str:
    """Return a regular expression for the owner id that has the same meaning in Python and PostgreSQL."""
    escaped = "".join(c if c.isalnum() or not c.isascii() or c == "_" else f"\\{c}" for c in owner_id)
    before = "(?<=user:)" if owner_id.isdecimal() else "(?<![A-Za-z0-9_])"
    return f"{before}{escaped}(?![A-Za-z0-9_])"


async def _check_finished(connection: Connection, account_id: int) -> None:
    _, [counts] = await connection.execute_query(_UNFINISHED, [account_id])
    if unfinished := [counted(count, name) for name, count in dict(counts).items() if count]:
        raise InvalidInput.at("OWNER", f"has {', '.join(unfinished)}: finish, cancel or refund them first")


async def _rewrite_entries(connection: Connection, account_id: int, substitute: Callable[[str], str]) -> bytes | None:
    """Rewrite the entries, and sign them from the first changed one on. Returns: the last MAC, None if none changed."""
    _, rows = await connection.execute_query(_ENTRIES, [account_id])
    key = posting.ledger_keys().signing
    previous_mac, changed = hash_chain.GENESIS_MAC, list[LedgerEntry]()
    for row in rows:
        entry = ENTRIES.read(row)
        values: dict[str, Any] = {
            name: substitute(text) for name in ENTRY_COLUMNS if (text := getattr(entry, name)) is not None
        }
        new = entry._replace(**values)
        if changed or new != entry:
            new = new._replace(key_id=key.id)
            new = new._replace(mac=hash_chain.sign_entry(new, previous_mac=previous_mac, key=key.entries))
            changed.append(new)
        previous_mac = new.mac
    for start in range(0, len(changed), _ENTRIES_AT_ONCE):
        some = changed[start : start + _ENTRIES_AT_ONCE]
        names = ("seq", "mac", "key_id", *ENTRY_COLUMNS)
        columns = [[getattr(entry, name) for entry in some] for name in names]
        await connection.execute_query(_REWRITE_ENTRIES, [account_id, *columns])
    return previous_mac if changed else None


async def _replace_in_texts(connection: Connection, account_id: int, pattern: str, pseudonym: str) -> None:
    for table, columns in TEXT_COLUMNS.items():
        changes = ", ".join(f"{name} = regexp_replace({name}, $2, $3, 'g')" for name in columns)
        matches = " OR ".join(f"{name} ~ $2" for name in columns)
        sql = f"UPDATE {table} SET {changes} WHERE account_id = $1 AND ({matches})"  # noqa: S608  our own names
        await connection.execute_query(sql, [account_id, pattern, pseudonym])


async def _replace_in_json(
    connection: Connection, account_id: int, owner_id: str, substitute: Callable[[str], str]
) -> None:
    quoted = json.dumps(owner_id, ensure_ascii=False)[1:-1]
    for table, name, sql_type in JSON_COLUMNS:
        select = (
            f"SELECT ctid::text AS place, {name}::text AS content FROM {table}"  # noqa: S608  our own names
            f" WHERE account_id = $1 AND position($2 IN {name}::text) > 0"
        )
        update = f"UPDATE {table} SET {name} = $2::text::{sql_type} WHERE ctid = $1::text::tid"  # noqa: S608  our own names
        _, rows = await connection.execute_query(select, [account_id, quoted])
        for row in rows:
            content = _replace_in_value(orjson.loads(row["content"]), substitute)
            await connection.execute_query(update, [row["place"], orjson.dumps(content).decode()])


def _replace_in_value(value: Any, substitute: Callable[[str], str]) -> Any:
    match value:
        case str():
            return substitute(value)
        case list():
            return [_replace_in_value(item, substitute) for item in value]
        case dict():
            return {key: _replace_in_value(item, substitute) for key, item in value.items()}
        case _:
            return value


async def _remove_payment_data(connection: Connection, account_id: int) -> list[str]:
    """Empty the provider events of the account, and remove its customers and URLs. Returns: the customers."""
    _, found = await connection.execute_query(_REFERENCES, [account_id])
    _, events = await connection.execute_query(_EVENTS, [[row["ref"] for row in found]])
    if waiting := [row["event_id"] for row in events if not row["is_handled"]]:
        raise InvalidInput.at("OWNER", f"has unhandled provider events: handle {', '.join(waiting)} first")
    empty = "UPDATE provider_event SET body = '{}', last_error = NULL WHERE event_id = ANY($1::text[])"
    await connection.execute_query(empty, [[row["event_id"] for row in events]])
    sandbox = "UPDATE sandbox_payment SET return_url = NULL WHERE provider_ref = ANY($1::text[])"
    await connection.execute_query(sandbox, [[row["ref"] for row in found]])
    await connection.execute_query(
        "UPDATE top_up SET payment_url = NULL, return_url = NULL WHERE account_id = $1", [account_id]
    )
    await connection.execute_query("UPDATE auto_top_up SET enabled = false WHERE account_id = $1", [account_id])
    remove = "DELETE FROM payment_customer WHERE account_id = $1 RETURNING provider, customer_ref"
    _, customers = await connection.execute_query(remove, [account_id])
    return [f"{row['provider']} {row['customer_ref']}" for row in customers]
