"""Rules of top-ups: amounts and prices, return URLs, references, mismatches and status changes."""

from datetime import UTC, datetime
from functools import reduce
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import Settings
from app.topups.rules import (
    Payment,
    PaymentStatus,
    Reference,
    TaxLine,
    TopUpRow,
    TopUpStatus,
    TopUpTerms,
    derive_status,
    find_mismatches,
    find_return_url_problems,
    format_money,
    merge_facts,
    take_captured_share,
)
from tests.topups.top_up_fixtures import TERMS

UNNAMED_VAT = TaxLine(label="Tax", amount_minor=100, inclusive=False)
NAMED_VAT = TaxLine(label="VAT 20 %", amount_minor=100, inclusive=False)
INCLUDED_TAX = TaxLine(label="Fee", amount_minor=3, inclusive=True)

TOP_UP = TopUpRow(
    account_id=7,
    id="0" * 32,
    credits=500,
    amount_minor=500,
    currency="USD",
    status=TopUpStatus.PENDING,
    provider="sandbox",
    provider_ref="pay_1",
    payment_url=None,
    return_url=None,
    actor="user:alice",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    paid_at=None,
    refunded_credits=0,
)


def payment(**changes: Any) -> Payment:
    values: dict[str, Any] = {
        "provider": "sandbox", "provider_ref": "pay_1", "reference": TOP_UP.reference, "status": PaymentStatus.PAID,
        "amount_minor": 500, "currency": "USD",
    }  # fmt: skip
    return Payment(**(values | changes))


@pytest.mark.parametrize("credits", [500, 600, 9_900, 10_000])
def test_multiples_within_the_bounds_may_be_bought(credits: int) -> None:
    assert TERMS.find_problems(credits, None) == []
    assert TERMS.find_problems(credits, "USD") == []


@pytest.mark.parametrize(
    ("credits", "message"),
    [
        (-500, "must lie between 500 and 10,000; it is -500"),
        (0, "must lie between 500 and 10,000; it is 0"),
        (499, "must lie between 500 and 10,000; it is 499"),
        (550, "must be a multiple of 100; it is 550"),
        (10_100, "must lie between 500 and 10,000; it is 10,100"),
        (2**63, "must lie between 500 and 10,000; it is 9,223,372,036,854,775,808"),
    ],
)
def test_other_amounts_are_refused_with_a_message(credits: int, message: str) -> None:
    [problem] = TERMS.find_problems(credits, None)
    assert (problem.path, problem.message) == ("credits", message)


@pytest.mark.parametrize("currency", ["EUR", "usd", "", "USD "])
def test_credits_are_sold_in_one_currency(currency: str) -> None:
    assert [problem.path for problem in TERMS.find_problems(500, currency)] == ["currency"]
    assert [problem.path for problem in TERMS.find_problems(499, currency)] == ["credits", "currency"]


def test_the_terms_come_from_the_settings() -> None:
    chosen = Settings(
        top_up_minimum=200, top_up_maximum=400, top_up_multiple=50, currency="JPY", minor_per_credit=3
    )  # fmt: skip
    terms = TopUpTerms.from_settings(chosen)
    assert (terms.find_problems(250, "JPY"), terms.amount_minor(250)) == ([], 750)
    assert [bool(terms.find_problems(credits, None)) for credits in (150, 225, 450)] == [True, True, True]


def test_a_price_beyond_the_limit_is_refused() -> None:
    terms = TopUpTerms(
        minimum_credits=1, maximum_credits=2**53, multiple_credits=1, currency="USD", minor_per_credit=2
    )  # fmt: skip
    assert terms.find_problems(2**52 - 1, None) == []
    assert [problem.path for problem in terms.find_problems(2**52, None)] == ["credits"]


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example",
        "http://localhost:3000/credits?done=1#top",
        "https://shop.example/?q=\"><script>alert('x')</script>",
        "https://[::1]:8443/x",
        "HTTPS://SHOP.EXAMPLE/",
        "https://shop.example/" + "x" * 1_979,
    ],
)
def test_full_http_urls_are_valid_return_urls(url: str) -> None:
    assert find_return_url_problems(url) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/credits",
        "//shop.example/",
        "shop.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://shop.example/",
        "https:///credits",
        "https:shop.example",
        "https://shop.example\\@evil.example/",
        "https://shop.example\\.evil.example/",
        "https://shop.example@evil.example/",
        "https://user:word@shop.example/",
        "https://shop.example/a b",
        "https://shop.example/\r\nSet-Cookie: a=b",
        "https://shop.example/\x00",
        "https://shöp.example/",
        "https://shop.example:99999/",
        "https://shop.example:port/",
        "https://[::1/",
        "https://shop.example/" + "x" * 1_980,
    ],
)
def test_other_texts_are_no_valid_return_urls(url: str) -> None:
    assert [problem.path for problem in find_return_url_problems(url)] == ["returnUrl"]


def test_the_return_url_is_optional() -> None:
    assert find_return_url_problems(None) == []


@given(st.integers(1, 10**18 - 1), st.uuids())
def test_a_reference_names_account_and_top_up(account_id: int, id_: object) -> None:
    reference = Reference(account_id, str(id_).replace("-", ""))
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    ["", "7", "7-", f"0-{'0' * 32}", f"-7-{'0' * 32}", f"7-{'0' * 31}", f"7-{'0' * 33}", f"7-{'A' * 32}",
     f"7-{'0' * 32}\n", f" 7-{'0' * 32}", f"²-{'0' * 32}", f"{10**18}-{'0' * 32}"],
)  # fmt: skip
def test_other_texts_are_no_references(text: str) -> None:
    assert Reference.parse(text) is None


def test_a_payment_that_equals_our_row_has_no_mismatches() -> None:
    assert find_mismatches(TOP_UP, payment()) == []
    assert find_mismatches(TOP_UP._replace(provider_ref=None), payment(provider_ref="pay_9")) == []


@pytest.mark.parametrize(
    ("changes", "mismatch"),
    [
        ({"amount_minor": 501}, "amount in minor units is 501, ours is 500"),
        ({"currency": "JPY"}, "currency is JPY, ours is USD"),
        ({"provider": "other"}, "provider is other, ours is sandbox"),
        ({"live": True}, "mode is live, ours is test"),
        ({"provider_ref": "pay_2"}, "payment is pay_2, ours is pay_1"),
        ({"reference": f"8-{'0' * 32}"}, f"reference is 8-{'0' * 32}, ours is 7-{'0' * 32}"),
        ({"captured_minor": 501}, "captured amount in minor units is 501, ours is 500"),
        ({"captured_minor": 601, "tax_lines": (UNNAMED_VAT,)}, "captured amount in minor units is 601, ours is 600"),
    ],
)
def test_every_field_is_compared_with_our_row(changes: dict[str, Any], mismatch: str) -> None:
    assert find_mismatches(TOP_UP, payment(**changes)) == [mismatch]


def test_the_total_of_later_events_is_compared_with_that_of_the_first() -> None:
    known = TOP_UP._replace(status=TopUpStatus.PAID, total_minor=600)
    taxed = payment(tax_lines=(UNNAMED_VAT,))
    assert find_mismatches(known, taxed) == []
    assert find_mismatches(known, payment()) == ["total in minor units is 500, ours is 600"]
    assert find_mismatches(known, payment(captured_minor=300, tax_lines=(UNNAMED_VAT,))) == [
        "total in minor units is 300, ours is 600"
    ]
    assert find_mismatches(known, payment(status=PaymentStatus.DECLINED)) == []


FACTS = [
    payment(payment_ref="pi_1", tax_lines=(UNNAMED_VAT,)),
    payment(tax_lines=(NAMED_VAT, INCLUDED_TAX)),
    payment(provider_ref="pi_1", payment_ref="pi_1", provider_ref_is_payment=True, tax_lines=(UNNAMED_VAT,)),
    payment(tax_lines=(UNNAMED_VAT,)),
]


@pytest.mark.parametrize("order", list(permutations(FACTS)))
@pytest.mark.parametrize("provider_ref", ["pay_1", None])
def test_the_facts_of_a_payment_are_the_same_for_any_order_of_its_events(
    order: tuple[Payment, ...], provider_ref: str | None
) -> None:
    found = reduce(merge_facts, order, TOP_UP._replace(provider_ref=provider_ref))
    assert found == TOP_UP._replace(
        payment_ref="pi_1", total_minor=600, tax_lines=(NAMED_VAT, INCLUDED_TAX), provider_ref="pay_1"
    )
    assert reduce(merge_facts, order, found) == found
    assert (TOP_UP.paid_minor, found.paid_minor) == (500, 600)


@given(
    bought=st.tuples(st.integers(1, 10_000), st.integers(1, 5), st.integers(0, 500)), captured=st.integers(1, 80_000),
    taxes=st.lists(st.integers(1, 900), max_size=3), order=st.permutations(range(4)),
)  # fmt: skip
def test_the_captured_share_is_exact_and_the_same_for_any_order_of_events(
    bought: tuple[int, int, int], captured: int, taxes: list[int], order: list[int]
) -> None:
    credits, price, bonus = bought
    total = credits * price + sum(taxes)
    captured = min(captured, total)
    unnamed = (TaxLine(label="Tax", amount_minor=sum(taxes), inclusive=False),) if taxes else ()
    named = tuple([TaxLine(label=f"{i} %", amount_minor=one, inclusive=False) for i, one in enumerate(taxes)])
    values: dict[str, Any] = {"amount_minor": credits * price, "captured_minor": captured}
    ordered = TOP_UP._replace(credits=credits, amount_minor=credits * price, bonus_credits=bonus)
    events = [
        payment(tax_lines=unnamed, **values),
        payment(tax_lines=named, **values),
        payment(tax_lines=unnamed, payment_ref="pi_1", **values),
        payment(tax_lines=named, **(values | {"captured_minor": None})),
    ]
    first, *later = sorted((events[number] for number in order), key=lambda event: event.captured_minor is None)
    found = merge_facts(take_captured_share(ordered, first), first)
    for event in later:
        assert find_mismatches(found, event) == []
        found = merge_facts(found, event)
    assert (found.credits, found.bonus_credits) == (credits * captured // total, bonus * captured // total)
    assert found.total_minor == captured
    assert found.amount_minor + sum(line.amount_minor for line in found.tax_lines) == captured
    assert found.amount_minor == captured - sum(taxes) * captured // total
    assert [line.label for line in found.tax_lines] == [line.label for line in named]
    assert all(line.amount_minor >= 0 for line in found.tax_lines)
    assert found.payment_ref == "pi_1"
    assert found.ordered_minor == (credits * price if captured < total else None)


def test_a_payment_counts_after_any_status_and_nothing_reverts_it() -> None:
    moves = {
        (status, state): after
        for status, state in product(TopUpStatus, PaymentStatus)
        if (after := derive_status(status, state)) is not None
    }
    assert moves == {
        (TopUpStatus.PENDING, PaymentStatus.PAID): TopUpStatus.PAID,
        (TopUpStatus.FAILED, PaymentStatus.PAID): TopUpStatus.PAID,
        (TopUpStatus.EXPIRED, PaymentStatus.PAID): TopUpStatus.PAID,
        (TopUpStatus.PENDING, PaymentStatus.DECLINED): TopUpStatus.FAILED,
        (TopUpStatus.PENDING, PaymentStatus.EXPIRED): TopUpStatus.EXPIRED,
    }


def test_a_payment_of_a_checkout_is_compared_by_payment_id() -> None:
    known = TOP_UP._replace(payment_ref="pi_1")
    assert find_mismatches(TOP_UP, payment(provider_ref="pi_1", payment_ref="pi_1", provider_ref_is_payment=True)) == []
    assert find_mismatches(known, payment(provider_ref="pi_1", payment_ref="pi_1", provider_ref_is_payment=True)) == []
    assert find_mismatches(known, payment(provider_ref="pi_2", payment_ref="pi_2", provider_ref_is_payment=True)) == [
        "payment is pi_2, ours is pi_1"
    ]


@pytest.mark.parametrize(
    ("amount_minor", "currency", "shown"),
    [(5, "USD", "0.05 USD"), (123_456, "USD", "1,234.56 USD"), (500, "JPY", "500 JPY"), (1_500, "KWD", "1.500 KWD")],
)
def test_money_is_formatted_with_the_decimals_of_its_currency(amount_minor: int, currency: str, shown: str) -> None:
    assert format_money(amount_minor, currency) == shown
