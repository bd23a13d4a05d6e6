"""Variables, coerced as graphql-core coerces them.

Each definition gets a short way for what clients nearly always send: the right JSON type. A short way that is not sure
raises `Unsure`, and graphql-core coerces all variables of the request: it finds the errors, and words them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from graphql import (
    GraphQLBoolean,
    GraphQLError,
    GraphQLID,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    GraphQLString,
    OperationDefinitionNode,
    VariableDefinitionNode,
    is_leaf_type,
    is_required_input_field,
)
from graphql.execution.get_variable_signature import GraphQLVariableSignature, get_variable_signature
from graphql.execution.values import VariableValues, VariableValueSource, get_variable_values
from graphql.pyutils import Undefined
from graphql.utilities.coerce_input_value import coerce_default_value

MAX_ERRORS: Final = 50
"""graphql-core's own default: how many errors of variables are told."""

Coercion = Callable[[Any], Any]
_Short = tuple[str, Coercion, Any, bool]
"""The name of a variable, its short way, its default (Undefined: none), and whether it must be sent or have one."""
_SENT_AS_THEY_ARE: Final[Mapping[Any, type]] = {GraphQLString: str, GraphQLID: str, GraphQLBoolean: bool}


class Unsure(Exception):
    """The short way does not cover this value."""


class Values:
    """The variables of one run."""

    __slots__ = ("_signatures", "_whole", "coerced", "given")

    def __init__(
        self,
        coerced: dict[str, Any],
        given: Mapping[str, Any],
        signatures: list[GraphQLVariableSignature],
        whole: VariableValues | None = None,
    ) -> None:
        self.coerced = coerced
        self.given = given
        self._signatures = signatures
        self._whole = whole

    def whole(self) -> VariableValues:
        """As graphql-core's functions take them: each with its signature and what was sent."""
        if self._whole is None:
            sources = {
                signature.name: VariableValueSource(signature, self.given.get(signature.name, Undefined))
                for signature in self._signatures
            }
            self._whole = VariableValues(sources, self.coerced)
        return self._whole


class Variables:
    """The variable definitions of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode, *, hides_suggestions: bool) -> None:
        self._schema = schema
        self._definitions = tuple(operation.variable_definitions or ())
        self._hides_suggestions = hides_suggestions
        self._signatures: list[GraphQLVariableSignature] = []
        self._short: list[_Short] | None = []
        for definition in self._definitions:
            self._define(definition)

    def values(self, given: Mapping[str, Any]) -> Values | list[GraphQLError]:
        """The variables of a request, or what is wrong with them."""
        if self._short is None:
            return self._in_full(given)
        try:
            return Values(self._shortly(self._short, given), given, self._signatures)
        except Exception:  # Unsure, or a scalar's refusal
            return self._in_full(given)

    def _in_full(self, given: Mapping[str, Any]) -> Values | list[GraphQLError]:
        found = get_variable_values(
            self._schema,
            self._definitions,
            dict(given),
            max_errors=MAX_ERRORS,
            hide_suggestions=self._hides_suggestions,
        )
        return found if isinstance(found, list) else self.coerced(found, given)

    def coerced(self, values: VariableValues, given: Mapping[str, Any]) -> Values:
        """Variables that graphql-core has coerced."""
        return Values(values.coerced, given, self._signatures, values)

    @staticmethod
    def _shortly(definitions: list[_Short], given: Mapping[str, Any]) -> dict[str, Any]:
        coerced: dict[str, Any] = {}
        for name, coerce, default, is_required in definitions:
            if name in given:
                coerced[name] = coerce(given[name])
            elif default is not Undefined:
                coerced[name] = default
            elif is_required:
                raise Unsure
        return coerced

    def _define(self, definition: VariableDefinitionNode) -> None:
        signature = get_variable_signature(self._schema, definition)
        if isinstance(signature, GraphQLError):
            self._short = None
            return
        self._signatures.append(signature)
        if self._short is not None:
            try:
                default = coerce_default_value(signature)
            except TypeError:  # an invalid default: graphql-core words the error
                self._short = None
            else:
                way = _short_way(signature.type, frozenset())
                is_required = isinstance(signature.type, GraphQLNonNull)
                self._short.append((signature.name, way, default, is_required))


def _short_way(kind: GraphQLInputType, above: frozenset[str]) -> Coercion:
    """`above`: the input objects that this one stands in. One that holds itself has no short way down there."""
    if isinstance(kind, GraphQLNonNull):
        return _present(_not_null(kind.of_type, above))
    inner = _not_null(kind, above)

    def nullable(value: Any) -> Any:
        return None if value is None else inner(value)

    return nullable


def _present(inner: Coercion) -> Coercion:
    def present(value: Any) -> Any:
        if value is None:
            raise Unsure
        return inner(value)

    return present


def _not_null(kind: Any, above: frozenset[str]) -> Coercion:
    """The short way for values that are not null."""
    if isinstance(kind, GraphQLList):
        return _list(_short_way(kind.of_type, above))
    if isinstance(kind, GraphQLInputObjectType):
        return _unsure if kind.is_one_of or kind.name in above else _input_object(kind, above | {kind.name})
    return _leaf(kind) if is_leaf_type(kind) else _unsure


def _unsure(_: Any) -> Any:
    raise Unsure


def _leaf(kind: Any) -> Coercion:
    exact = _SENT_AS_THEY_ARE.get(kind)
    coerce = kind.coerce_input_value

    def leaf(value: Any) -> Any:
        if type(value) is exact:
            return value
        coerced = coerce(value)
        if coerced is Undefined:
            raise Unsure
        return coerced

    return leaf


def _list(item: Coercion) -> Coercion:
    def items(value: Any) -> Any:
        if type(value) is not list:  # one item alone is a list of one: rare enough
            raise Unsure
        return [item(one) for one in value]

    return items


def _input_object(kind: GraphQLInputObjectType, above: frozenset[str]) -> Coercion:
    fields = [
        (name, field.out_name or name, _short_way(field.type, above), coerce_default_value(field), required)
        for name, field in kind.fields.items()
        for required in [is_required_input_field(field)]
    ]
    made = kind.out_type

    def input_object(value: Any) -> Any:
        if type(value) is not dict:
            raise Unsure
        coerced: dict[str, Any] = {}
        known = 0
        for name, out_name, coerce, default, required in fields:
            if name in value:
                known += 1
                coerced[out_name] = coerce(value[name])
            elif default is not Undefined:
                coerced[out_name] = default
            elif required:
                raise Unsure
        if known != len(value):
            raise Unsure
        return made(coerced)

    return input_object
