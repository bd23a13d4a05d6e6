"""A simple model of payments: top-ups, refunds and disputes. It uses no code of the product.

A credit costs one minor unit. There is no bonus: `tests/topups/refunds/test_refunds_state_machine.py` covers it.
"""

from tests.state_machine.model_account import ModelAccount
from tests.state_machine.requests import Buy, DisputeEvent, Refund, RefundEvent
from tests.state_machine.values import ACCOUNT, Answer, Grant, ModelRefund, Refused, TopUp


class ModelPayments(ModelAccount):
    """The account with its top-ups, refunds and disputes."""

    def left(self, top_up: TopUp) -> int:
        """The credits that were neither refunded nor clawed back."""
        refunded = sum(one.credits for one in self.refunds.values() if one.top_up == top_up.key and self._stands(one))
        return top_up.credits - refunded - (top_up.disputed if top_up.dispute == "LOST" else 0)

    def refundable(self, top_up: TopUp) -> int:
        return self.left(top_up) - (top_up.disputed if top_up.dispute == "OPEN" else 0)

    def standing(self, top_up: TopUp) -> tuple[str, int, int]:
        """Status, refunded credits, clawed back credits."""
        clawed = top_up.disputed if top_up.dispute == "LOST" else 0
        status = "DISPUTED" if top_up.dispute == "OPEN" else "PAID"
        left = self.left(top_up)
        return status if left else "REFUNDED", top_up.credits - clawed - left, clawed

    def _stands(self, refund: ModelRefund) -> bool:
        return refund.state != "FAILED"

    def _buy(self, asked: Buy) -> Answer:
        if (first := self.remembered(asked.key, asked)) is not None:
            return first
        self._make_grant(asked.credits, source="PURCHASED", kind="TOP_UP")
        self.top_ups[asked.key] = TopUp(key=asked.key, grant=len(self.grants), credits=asked.credits)
        self._pay_debt()
        return self.remember(asked.key, asked, {"bought": asked.credits})

    def _make_grant(self, credits: int, *, source: str, kind: str) -> None:
        grant = Grant(
            number=len(self.grants) + 1, source=source, credits=credits, priority=0, starts_at=None, expires_at=None,
            started=True, kind=kind,
        )  # fmt: skip
        self.grants.append(grant)
        self._enter_grant(grant)

    def _refund(self, asked: Refund) -> Answer:
        if self.remembered(asked.key, asked) is not None:
            return self._shown_refund(asked.key, replayed=True)
        top_up = self.top_ups[asked.top_up]
        room = self.refundable(top_up)
        wanted = room if asked.credits is None else asked.credits
        if not 0 < wanted <= room:
            raise Refused("RefundExceedsTopUp", requested_credits=wanted, refundable_credits=room)
        debt = self._take_back(top_up, wanted)
        self.refunds[asked.key] = ModelRefund(top_up=top_up.key, credits=wanted, debt=debt, state="PENDING")
        self.remember(asked.key, asked, {})
        if asked.answer != "PENDING":
            self._decide(asked.key, asked.answer)
        return self._shown_refund(asked.key, replayed=False)

    def _shown_refund(self, key: str, *, replayed: bool) -> Answer:
        refund = self.refunds[key]
        return {"refund": refund.state, "credits": refund.credits, "debt": refund.debt, "replayed": replayed}

    def _take_back(self, top_up: TopUp, credits: int, kind: str = "REFUND") -> int:
        """Withdraw credits of a grant. Returns: the credits that became debt."""
        grant = self.grants[top_up.grant - 1]
        if free := min(credits, grant.inside(ACCOUNT), self.available):
            grant.move(free, ACCOUNT, None)
            self._enter(kind, -free, [(grant.number, free)])
        if rest := credits - free:
            self._enter("DEBT", 0, [], owed=rest)
            self._pay_debt()
        return rest

    def _report_of_refund(self, asked: RefundEvent) -> Answer:
        return {"outcome": self._decide(asked.refund, asked.state), "replayed": False}

    def _decide(self, key: str, state: str) -> str:
        refund = self.refunds[key]
        if (refund.state, state) not in {("PENDING", "DONE"), ("PENDING", "FAILED"), ("DONE", "FAILED")}:
            return "UNCHANGED"
        refund.state = state
        if state == "DONE":
            return "REFUNDED"
        self._put_back(refund)
        return "REFUND_FAILED"

    def _put_back(self, refund: ModelRefund) -> None:
        top_up = self.top_ups[refund.top_up]
        self._undo_take_back(top_up, refund.credits, refund.debt)
        # A dispute that covers too little covers what has become available.
        more = min(self._target(top_up) - top_up.disputed, self.refundable(top_up)) if top_up.dispute else 0
        if more > 0 and top_up.dispute != "WON":
            self._cover(top_up, more, lost=top_up.dispute == "LOST")

    def _undo_take_back(self, top_up: TopUp, credits: int, debt: int, kind: str = "REFUND") -> None:
        """Undo a withdrawal: cancel what is still owed, return what was paid as a new grant, the rest to its grant."""
        forgiven = min(self.owed, debt)
        if forgiven:
            self._enter("DEBT", 0, [], owed=-forgiven)
        if own := credits - debt:
            grant = self.grants[top_up.grant - 1]
            grant.pockets[ACCOUNT] = grant.inside(ACCOUNT) + own
            self._enter(kind, own, [(grant.number, own)])
        if paid := debt - forgiven:
            self._make_grant(paid, source="ADJUSTMENT", kind=kind)
        self._pay_debt()

    def _cover(self, top_up: TopUp, credits: int, *, lost: bool) -> None:
        """Take credits back for a lost dispute, or freeze what the top-up still has of them for an open one."""
        top_up.disputed += credits
        if lost:
            top_up.debt += self._take_back(top_up, credits, "DISPUTE_LOST")
        else:
            top_up.frozen += min(credits, self.grants[top_up.grant - 1].inside(ACCOUNT), self.available)

    def _report_of_dispute(self, asked: DisputeEvent) -> Answer:
        top_up = self.top_ups[asked.top_up]
        return {"outcome": self._dispute(top_up, asked.state, half=asked.half), "replayed": False}

    def _dispute(self, top_up: TopUp, state: str, *, half: bool) -> str:
        """Without times, a later report replaces an earlier one, but never a decision by OPEN or by another one."""
        before = top_up.dispute
        if before in ("WON", "LOST") and state != before:
            return "UNCHANGED" if state == "OPEN" else "PARKED_MISMATCH"
        if before == state and self._target(top_up) == self._asked(top_up, half=half):
            return "UNCHANGED"
        undone, owed = (top_up.disputed, top_up.debt) if before == "LOST" else (0, 0)
        top_up.half, top_up.dispute, top_up.disputed, top_up.frozen, top_up.debt = half, None, 0, 0, 0
        if before == "LOST":
            self._undo_take_back(top_up, undone, owed, "DISPUTE_LOST")
        credits = min(self._target(top_up), self.left(top_up))
        if state != "WON" and credits:
            self._cover(top_up, credits, lost=state == "LOST")
        top_up.dispute = state
        self._pay_debt()
        return {"OPEN": "DISPUTED", "WON": "DISPUTE_WON", "LOST": "DISPUTE_LOST"}[state]

    def _target(self, top_up: TopUp) -> int:
        return self._asked(top_up, half=top_up.half)

    def _asked(self, top_up: TopUp, *, half: bool) -> int:
        """The credits or the amount of a full or half dispute, rounded up."""
        return -(-top_up.credits // 2) if half else top_up.credits
