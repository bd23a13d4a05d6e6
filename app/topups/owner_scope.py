"""Finding a top-up for somebody: see `ledger.sight`."""

from typing import Final

from app.db import pools
from app.ledger.owner_scope import OWNER_SCOPE_SQL, OwnerScope
from app.topups.rows import COLUMNS, from_row
from app.topups.rules import TopUpRow

_FIND: Final = f"SELECT {COLUMNS} FROM top_up AS t WHERE t.account_id = $1 AND t.id = $2 AND {OWNER_SCOPE_SQL}"  # noqa: S608  our own constants


async def find_top_up_in_scope(account_id: int, top_up_id: str, *, owner_ids: OwnerScope) -> TopUpRow | None:
    """That top-up, in an account of `owner_ids`; None: in any account."""
    found = await pools.fetch(_FIND, account_id, top_up_id, None if owner_ids is None else list(owner_ids))
    return from_row(found[0]) if found else None
