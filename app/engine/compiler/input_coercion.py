"""Coerces variables and arguments, with the same results and errors as graphql-core.

Each variable has a fast path for a value of the expected JSON type, which clients nearly always send. If the fast path
of one variable does not apply, graphql-core coerces all variables of the request and creates the errors. Arguments with
a fixed value in the document are coerced once, and arguments that are variables are looked up. graphql-core's
`get_argument_values` coerces all other arguments.
"""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from graphql import (
    GraphQLArgument,
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
    ValueNode,
    VariableDefinitionNode,
    VariableNode,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)
from graphql.execution.get_variable_signature import GraphQLVariableSignature, get_variable_signature
from graphql.execution.values import VariableValues, VariableValueSource, get_argument_values, get_variable_values
from graphql.language import visit
from graphql.language.visitor import Visitor
from graphql.pyutils import Undefined
from graphql.utilities.coerce_input_value import coerce_default_value, coerce_input_literal

from app.engine.compiler.analysis import CollectedField

MAX_ERRORS: Final = 50
"""The maximum number of reported errors in variables. This is graphql-core's default."""

_Coerce = Callable[[Any], Any]
_FastVariable = tuple[str, _Coerce, Any, bool]
"""A variable's name, its coercion, its default (Undefined: none), and whether its type is non-null."""
_PASSED_THROUGH: Final[Mapping[Any, type]] = {GraphQLString: str, GraphQLID: str, GraphQLBoolean: bool}


class _FastPathFailed(Exception):
    """The fast path does not support this value."""


class CoercedVariables:
    """The coerced variables of one execution."""

    __slots__ = ("_all", "_signatures", "coerced", "given")

    def __init__(
        self,
        coerced: dict[str, Any],
        given: Mapping[str, Any],
        signatures: list[GraphQLVariableSignature],
        all_values: VariableValues | None = None,
    ) -> None:
        self.coerced = coerced
        self.given = given
        self._signatures = signatures
        self._all = all_values

    def for_graphql_core(self) -> VariableValues:
        """Return the variables for functions of graphql-core, each with its signature and the value sent."""
        if self._all is None:
            sources = {
                signature.name: VariableValueSource(signature, self.given.get(signature.name, Undefined))
                for signature in self._signatures
            }
            self._all = VariableValues(sources, self.coerced)
        return self._all


class VariableCoercer:
    """Coerces the variables of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode, *, hide_suggestions: bool) -> None:
        self._schema = schema
        self._definitions = tuple(operation.variable_definitions or ())
        self._hide_suggestions = hide_suggestions
        self._signatures: list[GraphQLVariableSignature] = []
        self._fast: list[_FastVariable] | None = []
        for definition in self._definitions:
            self._define(definition)

    def coerce(self, given: Mapping[str, Any]) -> CoercedVariables | list[GraphQLError]:
        """Return the coerced variables of a request, or the errors in them."""
        if self._fast is None:
            return self._coerce_by_graphql_core(given)
        try:
            return CoercedVariables(_coerce_fast(self._fast, given), given, self._signatures)
        except Exception:  # _FastPathFailed, or a value that a scalar rejects
            return self._coerce_by_graphql_core(given)

    def _coerce_by_graphql_core(self, given: Mapping[str, Any]) -> CoercedVariables | list[GraphQLError]:
        found = get_variable_values(
            self._schema,
            self._definitions,
            dict(given),
            max_errors=MAX_ERRORS,
            hide_suggestions=self._hide_suggestions,
        )
        return found if isinstance(found, list) else CoercedVariables(found.coerced, given, self._signatures, found)

    def _define(self, definition: VariableDefinitionNode) -> None:
        signature = get_variable_signature(self._schema, definition)
        if isinstance(signature, GraphQLError):
            self._fast = None
            return
        self._signatures.append(signature)
        if self._fast is not None:
            try:
                default = coerce_default_value(signature)
            except TypeError:  # an invalid default: graphql-core creates the error
                self._fast = None
            else:
                coerce = _coercion(signature.type, frozenset())
                is_required = isinstance(signature.type, GraphQLNonNull)
                self._fast.append((signature.name, coerce, default, is_required))


def _coerce_fast(variables: list[_FastVariable], given: Mapping[str, Any]) -> dict[str, Any]:
    coerced: dict[str, Any] = {}
    for name, coerce, default, is_required in variables:
        if name in given:
            coerced[name] = coerce(given[name])
        elif default is not Undefined:
            coerced[name] = default
        elif is_required:
            raise _FastPathFailed
    return coerced


def _coercion(input_type: GraphQLInputType, outer_types: frozenset[str]) -> _Coerce:
    """Return a coercion. `outer_types` are the input objects that contain this type.

    There is no fast path for a recursive input object inside itself.
    """
    if isinstance(input_type, GraphQLNonNull):
        return _coerce_required(_coerce_present(input_type.of_type, outer_types))
    inner = _coerce_present(input_type, outer_types)

    def coerce_nullable(value: Any) -> Any:
        return None if value is None else inner(value)

    return coerce_nullable


def _coerce_required(inner: _Coerce) -> _Coerce:
    def coerce_required(value: Any) -> Any:
        if value is None:
            raise _FastPathFailed
        return inner(value)

    return coerce_required


def _coerce_present(input_type: Any, outer_types: frozenset[str]) -> _Coerce:
    """Return the coercion of values that are not null."""
    if isinstance(input_type, GraphQLList):
        return _coerce_list(_coercion(input_type.of_type, outer_types))
    if isinstance(input_type, GraphQLInputObjectType):
        if input_type.is_one_of or input_type.name in outer_types:
            return _fail
        return _coerce_object(input_type, outer_types | {input_type.name})
    return _coerce_leaf(input_type) if is_leaf_type(input_type) else _fail


def _fail(_: Any) -> Any:
    raise _FastPathFailed


def _coerce_leaf(input_type: Any) -> _Coerce:
    passed_through = _PASSED_THROUGH.get(input_type)
    coerce = input_type.coerce_input_value

    def coerce_leaf(value: Any) -> Any:
        if type(value) is passed_through:
            return value
        coerced = coerce(value)
        if coerced is Undefined:
            raise _FastPathFailed
        return coerced

    return coerce_leaf


def _coerce_list(coerce_item: _Coerce) -> _Coerce:
    def coerce_list(value: Any) -> Any:
        if type(value) is not list:  # rare: graphql-core coerces a single item to a list
            raise _FastPathFailed
        return [coerce_item(item) for item in value]

    return coerce_list


def _coerce_object(input_type: GraphQLInputObjectType, outer_types: frozenset[str]) -> _Coerce:
    fields = [
        (
            name,
            field.out_name or name,
            _coercion(field.type, outer_types),
            coerce_default_value(field),
            is_required_input_field(field),
        )
        for name, field in input_type.fields.items()
    ]
    out_type = input_type.out_type

    def coerce_object(value: Any) -> Any:
        if type(value) is not dict:
            raise _FastPathFailed
        coerced: dict[str, Any] = {}
        known = 0
        for name, out_name, coerce, default, is_required in fields:
            if name in value:
                known += 1
                coerced[out_name] = coerce(value[name])
            elif default is not Undefined:
                coerced[out_name] = default
            elif is_required:
                raise _FastPathFailed
        if known != len(value):  # the value has a key that the type does not have
            raise _FastPathFailed
        return out_type(coerced)

    return coerce_object


CoerceArguments = Callable[[CoercedVariables], dict[str, Any]]
"""Returns the arguments of a field by the resolver's names. Raises: GraphQLError: as graphql-core would."""

_VariableArgument = tuple[str, str, Any, bool]
"""The argument's name, the variable's, the argument's default (Undefined: none), and whether null is an error."""
_IMMUTABLE: Final = (str, int, float, bool, type(None), Enum, datetime, date, Decimal)


class _NotConstant(Enum):
    """Marks an argument whose value is invalid or known only during execution."""

    NOT_CONSTANT = "not constant"


_NOT_CONSTANT: Final = _NotConstant.NOT_CONSTANT


def argument_coercion(field: CollectedField, *, hide_suggestions: bool) -> CoerceArguments | None:
    """Return a function that coerces the arguments of this field, or None if it has no arguments."""
    if not field.definition.args:
        return None
    node = field.nodes[0]

    def coerce_by_graphql_core(variables: CoercedVariables) -> dict[str, Any]:
        return get_argument_values(field.definition, node, variables.for_graphql_core(), None, hide_suggestions)

    given = {argument.name.value: argument.value for argument in node.arguments or ()}
    constants: dict[str, Any] = {}
    variables: list[_VariableArgument] = []
    for name, definition in field.definition.args.items():
        out_name = definition.out_name or name
        value = given.get(name)
        constant = _default(definition) if isinstance(value, VariableNode) else _constant(definition, value)
        if constant is _NOT_CONSTANT:
            return coerce_by_graphql_core
        if isinstance(value, VariableNode):
            variables.append((out_name, value.name.value, constant, isinstance(definition.type, GraphQLNonNull)))
            constants[out_name] = None  # keeps the argument's place in the order
        elif constant is not Undefined:
            constants[out_name] = constant
    return _look_up(constants, variables, coerce_by_graphql_core) if variables else lambda _: constants


def _look_up(
    constants: dict[str, Any], variables: list[_VariableArgument], coerce_by_graphql_core: CoerceArguments
) -> CoerceArguments:
    def coerce_arguments(values: CoercedVariables) -> dict[str, Any]:
        coerced = values.coerced
        arguments = constants.copy()
        for name, variable_name, default, rejects_null in variables:
            value = coerced.get(variable_name, default)
            if rejects_null and (value is Undefined or value is None):
                return coerce_by_graphql_core(values)
            if value is Undefined:
                del arguments[name]
            else:
                arguments[name] = value
        return arguments

    return coerce_arguments


def _constant(definition: GraphQLArgument, value: ValueNode | None) -> Any:
    """Return the argument's value if it is fixed in the document.

    Returns Undefined if it has no value, and _NOT_CONSTANT if it must be coerced for each execution.
    """
    if value is None:
        return _NOT_CONSTANT if is_required_argument(definition) else _default(definition)
    if _contains_variable(value):
        return _NOT_CONSTANT
    coerced = coerce_input_literal(value, definition.type)
    # A resolver might change a mutable value, so such a value is created for each execution.
    return coerced if isinstance(coerced, _IMMUTABLE) else _NOT_CONSTANT


def _default(definition: GraphQLArgument) -> Any:
    try:
        return coerce_default_value(definition)
    except TypeError:  # the schema's default is invalid; execution reports it
        return _NOT_CONSTANT


def _contains_variable(value: ValueNode) -> bool:
    visitor = _VariableFinder()
    visit(value, visitor)
    return visitor.found


class _VariableFinder(Visitor):
    found = False

    def enter_variable(self, *_: Any) -> None:
        self.found = True
