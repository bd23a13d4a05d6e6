"""The state of the fake: customers, checkouts, payments, refunds, disputes and events, and what changes them."""

import copy
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.fake_stripe import objects, openapi_checks, sdk_type_checks
from tests.fake_stripe.objects import Json


@dataclass
class StripeError(Exception):
    """An error response with this status and body."""

    status: int
    body: Json


@dataclass
class FakeStripe:
    """`url`: of the fake's pages. `next_charge`: the result of the next payment with a saved card."""

    url: str = ""
    next_charge: Literal["succeeded", "declined", "authentication_required"] = "succeeded"
    lost_replies: int = 0
    """How many of the next replies are lost after the call was executed."""
    failing_calls: int = 0
    """How many of the next calls are answered with 500 and not executed."""
    refusal: tuple[int, Json] | None = None
    """Status and error with which calls that begin something are refused."""
    objects: dict[str, Json] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    calls: list[tuple[str, str, Json]] = field(default_factory=list)
    """Method, path and form of each call, in order, including repeated ones."""
    _answered: dict[str, tuple[str, Json, int, Json]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _number: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def run_idempotent(self, key: str | None, path: str, form: Json, do: Callable[[Json], Json]) -> tuple[int, Json]:
        """Status and reply of a call; with an idempotency key that was used before, those of the first call."""
        with self._lock:
            if key is not None and key in self._answered:
                first_path, first_form, status, reply = self._answered[key]
                if (first_path, first_form) != (path, form):
                    raise StripeError(400, {"error": {"type": "idempotency_error", "message": "Other parameters."}})
                return status, copy.deepcopy(reply)
            try:
                status, reply = 200, do(form)
            except StripeError as error:
                status, reply = error.status, error.body
            if key is not None and self.refusal is None:
                self._answered[key] = (path, form, status, copy.deepcopy(reply))
            return status, copy.deepcopy(reply)

    def list_objects(self, kind: str) -> list[Json]:
        """All objects of a type, newest first."""
        return [item for item in reversed(self.objects.values()) if item["object"] == kind]

    def get(self, id: str, *, param: str = "id") -> Json:
        """Raises: StripeError."""
        if id not in self.objects:
            message = f"No such object: {id}"
            raise StripeError(
                404, objects.error_body("invalid_request_error", "resource_missing", message, param=param)
            )
        return self.objects[id]

    def delete(self, id: str) -> None:
        """Delete a customer or a card on Stripe's dashboard."""
        with self._lock:
            del self.objects[id]

    def _refuse(self) -> None:
        if self.refusal is not None:
            status, error = self.refusal
            raise StripeError(status, {"error": {"type": "invalid_request_error", "message": "Refused."} | error})

    def create_customer(self, form: Json) -> Json:
        self._refuse()
        return self._add("cus", {"object": "customer", "livemode": False, "metadata": form.get("metadata", {})})

    def create_session(self, form: Json) -> Json:
        self._refuse()
        if "customer" in form:
            self.get(form["customer"], param="customer")
        [line] = form["line_items"]
        price = line["price_data"]
        amount = int(price["unit_amount"]) * int(line["quantity"])
        taxed = (form.get("automatic_tax") or {}).get("enabled") == "true"
        tax = amount // 5 if taxed and price["tax_behavior"] == "exclusive" else 0
        created = self._add(
            "cs_test",
            objects.session(
                amount_subtotal=amount,
                amount_total=amount + tax,
                currency=price["currency"],
                customer=form.get("customer"),
                client_reference_id=form["client_reference_id"],
                metadata=form["metadata"],
                success_url=form["success_url"],
                cancel_url=form["cancel_url"],
                expires_at=int(time.time()) + 86_400,
                total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": tax},
                url="",
            ),
        )
        created["url"] = f"{self.url}/pay/{created['id']}"
        self.objects[f"request of {created['id']}"] = {"object": "-", **form}
        return created

    def calculate_tax(self, form: Json) -> Json:
        """20 % of the price, if a checkout has saved the customer's address."""
        if self.get(form["customer"], param="customer").get("address") is None:
            message = "The customer's location is not known."
            raise StripeError(
                400, objects.error_body("invalid_request_error", "customer_tax_location_invalid", message)
            )
        [line] = form["line_items"]
        assert line["tax_behavior"] == "exclusive"
        price = int(line["amount"])
        made = self._add(
            "taxcalc",
            objects.tax_calculation(
                amount_total=price + price // 5, tax_amount_exclusive=price // 5, currency=form["currency"],
                customer=form["customer"],
            ),
        )  # fmt: skip
        del made["created"]  # a calculation has no such field
        return made

    def create_intent(self, form: Json) -> Json:
        """A payment with a saved card in its owner's absence."""
        self._refuse()
        self.get(form["customer"], param="customer")
        card = self.get(form["payment_method"], param="payment_method")
        if card["customer"] != form["customer"]:
            raise StripeError(
                400, objects.error_body("invalid_request_error", "payment_method_unexpected_state", "Detached.")
            )
        if (hooks := form.get("hooks")) is not None:
            assert self.get(hooks["inputs"]["tax"]["calculation"])["amount_total"] == int(form["amount"])
        created = self._intent(form, int(form["amount"]), card)
        if self.next_charge == "succeeded":
            self._succeed(created)
            return created
        error = {"type": "card_error", "message": "Declined."} | (
            {"code": "card_declined", "decline_code": "insufficient_funds"}
            if self.next_charge == "declined"
            else {"code": "authentication_required", "decline_code": "authentication_required"}
        )
        created |= {"status": "requires_payment_method", "last_payment_error": error, "payment_method": None}
        self.emit_event("payment_intent.payment_failed", created)
        raise StripeError(402, {"error": error | {"payment_intent": copy.deepcopy(created)}})

    def confirm_intent(self, id: str, form: Json) -> Json:
        created = self.get(id)
        page = {"url": f"{self.url}/authenticate/{id}", "return_url": form["return_url"]}
        created |= {
            "status": "requires_action",
            "payment_method": form["payment_method"],
            "last_payment_error": None,
            "next_action": {"type": "redirect_to_url", "redirect_to_url": page},
        }
        self.emit_event("payment_intent.requires_action", created)
        return created

    def create_refund(self, form: Json) -> Json:
        charge = self.get(self.get(form["payment_intent"])["latest_charge"])
        amount = int(form["amount"])
        if charge["amount_refunded"] + amount > charge["amount"]:
            raise StripeError(
                400, objects.error_body("invalid_request_error", "charge_already_refunded", "More than paid.")
            )
        charge["amount_refunded"] += amount
        created = self._add(
            "re",
            {
                "object": "refund",
                "amount": amount,
                "currency": charge["currency"],
                "charge": charge["id"],
                "payment_intent": form["payment_intent"],
                "metadata": form.get("metadata", {}),
                "status": form.get("status", "succeeded"),
            },
        )
        self.emit_event("refund.created", created)
        return created

    def create_portal(self, form: Json) -> Json:
        self._refuse()
        self.get(form["customer"], param="customer")
        created = self._add(
            "bps",
            {
                "object": "billing_portal.session",
                "configuration": "bpc_1",
                "customer": form["customer"],
                "livemode": False,
                "return_url": form["return_url"],
                "url": "",
            },
        )
        created["url"] = f"{self.url}/portal/{created['id']}"
        return created

    def pay_checkout(self, session_id: str, *, later: bool = False) -> list[Json]:
        """The buyer pays on the page; `later`: with a delayed payment method. Returns: the events."""
        with self._lock:
            before = len(self.events)
            session = self.get(session_id)
            assert session["status"] == "open", "the page is closed"
            form = self.objects[f"request of {session_id}"]
            asked = form["payment_intent_data"]
            if form.get("customer_update") == {"address": "auto"}:
                self.get(session["customer"])["address"] = {"country": "DE"}
            card = self._add(
                "pm", objects.card(customer=session["customer"] if "setup_future_usage" in asked else None)
            )
            created = self._intent(
                asked | {"currency": session["currency"], "customer": session["customer"]},
                session["amount_total"],
                card,
            )
            session |= {"status": "complete", "payment_intent": created["id"], "url": None}
            if later:
                created["status"] = "processing"
            else:
                session["payment_status"] = "paid"
                self._succeed(created)
            self.emit_event("checkout.session.completed", session)
            return self.events[before:]

    def settle_delayed_payment(self, session_id: str, *, paid: bool) -> list[Json]:
        """A delayed payment succeeds or fails. Returns: the events."""
        with self._lock:
            before = len(self.events)
            session = self.get(session_id)
            intent = self.get(session["payment_intent"])
            if paid:
                session["payment_status"] = "paid"
                self._succeed(intent)
                self.emit_event("checkout.session.async_payment_succeeded", session)
            else:
                intent |= {
                    "status": "requires_payment_method",
                    "last_payment_error": {"type": "card_error", "code": "card_declined"},
                }
                self.emit_event("payment_intent.payment_failed", intent)
                self.emit_event("checkout.session.async_payment_failed", session)
            return self.events[before:]

    def decline_card(self, session_id: str) -> list[Json]:
        """A card is declined on the page, which stays open. Returns: the events."""
        with self._lock:
            session, form = self.get(session_id), self.objects[f"request of {session_id}"]
            created = self._intent(
                form["payment_intent_data"] | {"currency": session["currency"]}, session["amount_total"], None
            )
            created |= {
                "status": "requires_payment_method",
                "last_payment_error": {"type": "card_error", "code": "card_declined"},
            }
            return [self.emit_event("payment_intent.payment_failed", created)]

    def expire_checkout(self, session_id: str) -> list[Json]:
        with self._lock:
            session = self.get(session_id)
            session |= {"status": "expired", "url": None}
            return [self.emit_event("checkout.session.expired", session)]

    def refund_from_dashboard(
        self, intent_id: str, amount: int, *, status: Literal["pending", "succeeded"] = "succeeded"
    ) -> Json:
        """A refund on Stripe's dashboard. Returns: the event."""
        with self._lock:
            self.create_refund({"payment_intent": intent_id, "amount": amount, "status": status})
            return self.events[-1]

    def decide_refund(self, refund_id: str, status: Literal["succeeded", "failed"]) -> list[Json]:
        """The buyer's bank accepts the money or returns it, also after it had accepted it. Returns: the events."""
        with self._lock:
            before = len(self.events)
            refund = self.get(refund_id)
            refund["status"] = status
            if status == "failed":
                refund["failure_reason"] = "expired_or_canceled_card"
                self.get(refund["charge"])["amount_refunded"] -= refund["amount"]
                self.emit_event("refund.failed", refund)
            self.emit_event("refund.updated", refund)
            return self.events[before:]

    def dispute(self, intent_id: str, kind: str = "created", status: str = "needs_response") -> Json:
        """The buyer's bank opens or decides a dispute. Returns: the event."""
        with self._lock:
            intent = self.get(intent_id)
            known = [one for one in self.list_objects("dispute") if one["payment_intent"] == intent_id]
            item = (
                known[0]
                if known
                else self._add(
                    "du",
                    objects.dispute(
                        amount=intent["amount"],
                        currency=intent["currency"],
                        charge=intent["latest_charge"],
                        payment_intent=intent_id,
                    ),
                )
            )
            item["status"] = status
            return self.emit_event(f"charge.dispute.{kind}", item)

    def emit_event(self, kind: str, item: Json, *, live: bool = False) -> Json:
        """Make an event and keep it in `events`."""
        event = {
            "object": "event",
            "id": f"evt_{next(self._number):06}",
            "type": kind,
            "created": int(time.time()),
            "livemode": live,
            "api_version": "2026-10-28.endive",
            "pending_webhooks": 1,
            "request": None,
            "data": {"object": copy.deepcopy(item)},
        }
        sdk_type_checks.check_event(event)
        openapi_checks.check_event(event)
        self.events.append(event)
        return event

    def _intent(self, form: Json, amount: int, card: Json | None) -> Json:
        return self._add(
            "pi",
            objects.intent(
                amount=amount,
                currency=form["currency"],
                customer=form.get("customer"),
                metadata=form.get("metadata", {}),
                description=form.get("description"),
                payment_method=card["id"] if card else None,
                status="requires_confirmation",
                setup_future_usage=form.get("setup_future_usage"),
            ),
        )

    def _succeed(self, intent: Json) -> None:
        charge = self._add(
            "ch",
            objects.charge(
                amount=intent["amount"],
                amount_captured=intent["amount"],
                currency=intent["currency"],
                customer=intent["customer"],
                metadata=intent["metadata"],
                payment_intent=intent["id"],
                payment_method=intent["payment_method"],
            ),
        )
        intent |= {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "latest_charge": charge["id"],
            "next_action": None,
            "last_payment_error": None,
        }
        self.emit_event("charge.succeeded", charge)
        self.emit_event("payment_intent.succeeded", intent)

    def _add(self, prefix: str, item: Json) -> Json:
        created: Json = {"id": f"{prefix}_{next(self._number):06}", "created": int(time.time())} | item
        self.objects[created["id"]] = created
        return created
