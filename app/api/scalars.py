"""The scalars of the API: those of the engine, `Credits` and `RateCardDocument`."""

from collections.abc import Mapping
from typing import Any, Final, NewType

from graphql import GraphQLError, ValueNode
from strawberry.types.scalar import ScalarDefinition, scalar

from app.engine import scalars
from app.engine.scalars import integer_scalar, unchanged

Credits = NewType("Credits", int)
RateCardDocument = NewType("RateCardDocument", dict[str, Any])


def _refuse_literal(node: ValueNode, _variables: dict[str, Any] | None = None) -> object:
    raise GraphQLError("Send the rate card in a variable: it is too large for the document.", node)


SCALARS: Final[Mapping[object, ScalarDefinition]] = {
    **scalars.SCALARS,
    Credits: integer_scalar("Credits", "Whole credits: an integer within ±(2^53 - 1), sent as a JSON number."),
    RateCardDocument: scalar(
        name="RateCardDocument",
        description="A rate card as a JSON object, in the format of the default rate card.",
        serialize=unchanged,
        parse_value=unchanged,
        parse_literal=_refuse_literal,
    ),
}
"""The argument `scalars` of `engine.schema.create_schema`."""
