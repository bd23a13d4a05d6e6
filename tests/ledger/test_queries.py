"""Reads of the ledger: pages of entries and grants."""

import pytest

from app.ledger import grants, posting, queries
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause, EntryKind
from tests.factories import grant_credits, unique_id

pytestmark = pytest.mark.anyio


@pytest.fixture
async def account(db: str) -> int:
    """Eight entries: GRANT, GRANT, CHARGE, CHARGE, ADJUSTMENT, GRANT, CHARGE, CHARGE."""
    grant = (await grant_credits("alice", 100)).grant
    account = (await grant_credits("alice", 50)).balance.account_id

    async def charge_twice(posting: Posting) -> None:
        for _ in range(2):
            balance_changes.charge(posting.accounts[account], 10, Cause(actor="service:test"))

    await posting.post([account], charge_twice)
    await grants.revoke_grant(account, grant.number, reason="not meant", key=unique_id("revoke"), actor="operator:test")
    await grant_credits("alice", 7)
    await posting.post([account], charge_twice)
    return account


@pytest.mark.parametrize(
    ("kinds", "seqs"),
    [
        (None, [8, 7, 6, 5, 4, 3, 2, 1]),
        ([EntryKind.CHARGE], [8, 7, 4, 3]),
        ([EntryKind.GRANT], [6, 2, 1]),
        ([EntryKind.GRANT, EntryKind.ADJUSTMENT], [6, 5, 2, 1]),
        ([EntryKind.CHARGE, EntryKind.ADJUSTMENT], [8, 7, 5, 4, 3]),
        ([EntryKind.TOP_UP], []),
        ([], []),
    ],
    ids=str,
)
async def test_entries_are_listed_newest_first_in_pages_by_kind(
    account: int, kinds: list[EntryKind] | None, seqs: list[int]
) -> None:
    for size in (1, 3, 9):
        found: list[int] = []
        while page := await queries.list_entries(
            account, before_seq=found[-1] if found else 99, limit=size, kinds=kinds
        ):
            assert len(page) <= size
            found += [entry.seq for entry in page]
        assert found == seqs


async def test_grants_are_listed_newest_first_and_can_be_limited_to_spendable_ones(account: int) -> None:
    assert [grant.number for grant in await queries.list_grants(account, before_number=99, limit=2)] == [3, 2]
    assert [grant.number for grant in await queries.list_grants(account, before_number=2, limit=2)] == [1]
    spendable = await queries.list_grants(account, before_number=99, limit=9, spendable_only=True)
    assert [(grant.number, grant.remaining) for grant in spendable] == [(3, 7), (2, 30)]
