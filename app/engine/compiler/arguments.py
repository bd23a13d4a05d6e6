"""The arguments of a place, coerced as graphql-core coerces them.

What the document fixes is coerced once; a variable is looked up. Whatever is neither, and every error, is
graphql-core's own `get_argument_values`.
"""

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from graphql import GraphQLArgument, GraphQLNonNull, ValueNode, VariableNode, is_required_argument
from graphql.execution.values import get_argument_values
from graphql.language import visit
from graphql.language.visitor import Visitor
from graphql.pyutils import Undefined
from graphql.utilities.coerce_input_value import coerce_default_value, coerce_input_literal

from app.engine.compiler.field_collection import Place
from app.engine.compiler.input_coercion import Values

Arguments = Callable[[Values], dict[str, Any]]
"""The arguments by their names for the resolver. Raises: GraphQLError, as graphql-core words it."""

_Variable = tuple[str, str, Any, bool]
"""The argument's name, the variable's, the argument's default (Undefined: none), and whether null is refused."""
_IMMUTABLE: Final = (str, int, float, bool, type(None), Enum, datetime, date, Decimal)


def arguments_of(place: Place, *, hides_suggestions: bool) -> Arguments | None:
    """How the arguments of this place are found; None where it takes none."""
    if not place.definition.args:
        return None
    node = place.nodes[0]

    def in_full(values: Values) -> dict[str, Any]:
        return get_argument_values(place.definition, node, values.whole(), None, hides_suggestions)

    given = {argument.name.value: argument.value for argument in node.arguments or ()}
    fixed: dict[str, Any] = {}
    variable: list[_Variable] = []
    for name, definition in place.definition.args.items():
        out_name = definition.out_name or name
        value = given.get(name)
        coerced = _default(definition) if isinstance(value, VariableNode) else _fixed(definition, value)
        if coerced is _UNKNOWN:
            return in_full
        if isinstance(value, VariableNode):
            variable.append((out_name, value.name.value, coerced, isinstance(definition.type, GraphQLNonNull)))
            fixed[out_name] = None  # its place in the order
        elif coerced is not Undefined:
            fixed[out_name] = coerced
    return _looked_up(fixed, variable, in_full) if variable else lambda _: fixed


def _looked_up(fixed: dict[str, Any], variable: list[_Variable], in_full: Arguments) -> Arguments:
    def arguments(values: Values) -> dict[str, Any]:
        coerced = values.coerced
        found = fixed.copy()
        for name, variable_name, default, refuses_null in variable:
            value = coerced.get(variable_name, default)
            if refuses_null and (value is Undefined or value is None):
                return in_full(values)
            if value is Undefined:
                del found[name]
            else:
                found[name] = value
        return found

    return arguments


class _Unknown(Enum):
    """An argument that is not fixed by the document, or not rightly."""

    UNKNOWN = "unknown"


_UNKNOWN: Final = _Unknown.UNKNOWN


def _fixed(definition: GraphQLArgument, value: ValueNode | None) -> Any:
    """The argument that the document fixes; Undefined: there is none; _UNKNOWN: that is seen only when it runs."""
    if value is None:
        if is_required_argument(definition):
            return _UNKNOWN
        return _default(definition)
    if _names_a_variable(value):
        return _UNKNOWN
    coerced = coerce_input_literal(value, definition.type)
    # What a resolver might change is made anew for each.
    return coerced if isinstance(coerced, _IMMUTABLE) else _UNKNOWN


def _default(definition: GraphQLArgument) -> Any:
    try:
        return coerce_default_value(definition)
    except TypeError:  # the schema's default is invalid: told when it runs
        return _UNKNOWN


def _names_a_variable(value: ValueNode) -> bool:
    found = _Finder()
    visit(value, found)
    return found.found


class _Finder(Visitor):
    found = False

    def enter_variable(self, *_: Any) -> None:
        self.found = True
