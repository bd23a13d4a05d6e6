"""The account's own threshold: below it the balance shows as LOW, and a notice says so once at each crossing."""

from dataclasses import dataclass

from app.credits import check_amount, check_key
from app.ledger import accounts, lines, notices, operations, posting, sight
from app.ledger.book import Figures
from app.ledger.notices import NoticeKind
from app.ledger.posting import Posting
from app.ledger.sight import Owners
from app.trail.records import Act


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdSet:
    """The account after the call; of a replay, as it stands today."""

    balance: Figures
    replayed: bool


async def set_low_balance_at(
    owner_id: str, credits: int, *, key: str, actor: str, owner_ids: Owners = None, act: Act | None = None
) -> ThresholdSet:
    """Choose below how many available credits the balance is low (0: never), making the account if need be.

    Nobody is told of a balance that the new threshold makes low: setting a threshold is no crossing. A notice that it
    contradicts is cleared. `owner_ids`: whose account it may be; None: anybody's.
    Raises: InvalidInput, IdempotencyConflict; Forbidden: it is another's, and none was made.
    """
    check_key(key, path="idempotencyKey")
    check_amount(credits, minimum=0)
    sight.check_own(owner_id, owner_ids=owner_ids)
    account_id = await accounts.ensure(owner_id)
    print_ = operations.fingerprint("setLowBalanceAt", {"credits": credits})

    async def decide(posting: Posting) -> ThresholdSet:
        book = posting.books[account_id]
        sight.check_own(book.owner_id, owner_ids=owner_ids)
        if await operations.replayed(posting, book, key, print_) is not None:
            return ThresholdSet(balance=book.figures(), replayed=True)
        before = {"lowBalanceAt": book.low_balance_at}
        book.low_balance_at = credits
        lines.move_on(book)  # what subscribers see as the balance's status depends on it
        if book.available >= credits:
            notices.clear(book, posting.write, NoticeKind.LOW_BALANCE)
        result = {"lowBalanceAt": credits, "actor": actor}
        operations.remember(posting, book, key, kind="setLowBalanceAt", print_=print_, result=result)
        posting.leave(act, book, subject="threshold", before=before, after={"lowBalanceAt": credits})
        return ThresholdSet(balance=book.figures(), replayed=False)

    return await posting.post([account_id], decide)
