"""Compiles the fields of an operation, and the start of a subscription, to closures.

The fields that an operation selects from a member of a union or interface are compiled when the first object of that
type is returned. The reason: a mutation may return a dozen error types, most of which never occur.
"""

from collections.abc import AsyncIterable, Awaitable, Callable
from inspect import isawaitable
from typing import Any

from graphql import (
    GraphQLAbstractType,
    GraphQLError,
    GraphQLLeafType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    SelectionSetNode,
    is_abstract_type,
    is_leaf_type,
    is_non_null_type,
)
from graphql.execution.execute import assert_event_stream
from graphql.execution.executor import default_type_resolver

from app.engine.compiler import completion, field_execution
from app.engine.compiler.analysis import CollectedField, Conditions, FieldCollector, NotCompilable
from app.engine.compiler.completion import ExecuteFields
from app.engine.compiler.execution_state import (
    CompleteValue,
    ExecuteField,
    Execution,
    Operation,
    ResponsePath,
    locate_error,
)
from app.engine.compiler.input_coercion import argument_coercion
from app.engine.compiler.output_types import classes_of_type, plain_classes, types_by_class
from app.engine.compiler.resolvers import attribute_name, direct_resolver, is_subscription_event, schema_resolver

Subscribe = Callable[[Execution], Awaitable[AsyncIterable[Any]]]
"""Starts a subscription and returns its events. Raises: GraphQLError with its locations and path."""


class Compiler:
    """Compiles one operation for one set of conditions."""

    def __init__(self, operation: Operation, conditions: Conditions, on_field: Callable[[], None]) -> None:
        """`on_field` is called for each compiled field, also if the field is compiled during execution."""
        self._operation = operation
        self._schema = operation.schema
        self._collector = FieldCollector(operation.schema, operation.fragments, conditions)
        self._on_field = on_field
        self.is_copy = True
        """Whether all fields compiled so far only return attributes of the source."""

    def compile_root(self, root_type: GraphQLObjectType, *, in_series: bool) -> ExecuteFields:
        fields = self._compile_fields(root_type, [self._operation.definition.selection_set])
        return completion.in_series(fields) if in_series else completion.in_parallel(fields)

    def compile_subscribe(self, root_type: GraphQLObjectType) -> Subscribe:
        """Return the function that starts the subscription. Raises: NotCompilable."""
        fields = self._collector.collect(root_type, [self._operation.definition.selection_set])
        if len(fields) != 1:
            raise NotCompilable("root fields")
        return _compile_subscribe(fields[0], hide_suggestions=self._operation.hide_suggestions)

    def _compile_fields(
        self, parent: GraphQLObjectType, selection_sets: list[SelectionSetNode]
    ) -> list[tuple[str, ExecuteField]]:
        fields = self._collector.collect(parent, selection_sets)
        return [(field.response_name, self._compile_field(field)) for field in fields]

    def _compile_field(self, field: CollectedField) -> ExecuteField:
        self._on_field()
        if field.field_name == "__typename":
            return field_execution.execute_typename(field.parent.name)
        output_type = _nullable(field.definition.type)
        complete = self._compile_completion(field, field.definition.type)
        is_required = is_non_null_type(field.definition.type)
        plain = self._plain_classes(output_type)
        finish = completion.ValueCompletion(field, complete, plain, is_required=is_required)
        if (attribute := attribute_name(field, self._schema)) is not None:
            leaf_type: Any = output_type if is_leaf_type(output_type) else None
            return field_execution.execute_attribute(finish, attribute, leaf_type)
        coerce_arguments = argument_coercion(field, hide_suggestions=self._operation.hide_suggestions)
        if is_subscription_event(field):
            return field_execution.execute_event(finish, coerce_arguments)
        self.is_copy = False
        if (resolver := direct_resolver(field, self._schema)) is not None:
            return field_execution.execute_direct(finish, resolver, coerce_arguments)
        return field_execution.execute_resolver(finish, schema_resolver(field), coerce_arguments)

    def _compile_completion(self, field: CollectedField, output_type: GraphQLOutputType) -> CompleteValue:
        if isinstance(output_type, GraphQLNonNull):
            inner = output_type.of_type
            if isinstance(inner, GraphQLObjectType):
                return self._compile_object(field, inner, is_required=True)
            return completion.complete_non_null(field, self._compile_completion(field, inner))
        if isinstance(output_type, GraphQLList):
            item_type = output_type.of_type
            complete_item = self._compile_completion(field, item_type)
            plain = self._plain_classes(_nullable(item_type))
            return completion.CompleteList(field, output_type, complete_item, plain)
        if isinstance(output_type, GraphQLObjectType):
            return self._compile_object(field, output_type)
        if is_abstract_type(output_type):
            return self._compile_abstract(field, output_type)
        return completion.complete_leaf(_leaf_type(output_type))

    def _compile_object(
        self, field: CollectedField, object_type: GraphQLObjectType, *, is_required: bool = False
    ) -> CompleteValue:
        selection_sets = [node.selection_set for node in field.nodes if node.selection_set]
        execute_fields = completion.in_parallel(self._compile_fields(object_type, selection_sets))
        return completion.complete_object(
            field, object_type, execute_fields, classes_of_type(object_type), is_required=is_required
        )

    def _compile_abstract(self, field: CollectedField, abstract_type: GraphQLAbstractType) -> CompleteValue:
        self.is_copy = False  # unknown, because its fields are compiled later
        completions: dict[str, CompleteValue] = {}

        def completion_for(object_type: GraphQLObjectType) -> CompleteValue:
            if object_type.name not in completions:
                completions[object_type.name] = self._compile_object(field, object_type)
            return completions[object_type.name]

        by_class = types_by_class(self._schema, abstract_type)
        resolve_type = abstract_type.resolve_type or default_type_resolver
        return completion.complete_abstract(field, abstract_type, completion_for, by_class, resolve_type)

    def _plain_classes(self, output_type: Any) -> frozenset[type]:
        """Return the Python classes of this type's values whose instances are known not to be awaitable."""
        if isinstance(output_type, GraphQLList):
            return frozenset({list, tuple})
        if isinstance(output_type, GraphQLObjectType):
            return classes_of_type(output_type)
        if is_abstract_type(output_type):
            return frozenset(types_by_class(self._schema, output_type))
        return plain_classes(output_type)


def _nullable(output_type: GraphQLOutputType) -> Any:
    return output_type.of_type if isinstance(output_type, GraphQLNonNull) else output_type


def _leaf_type(output_type: Any) -> GraphQLLeafType:
    if not is_leaf_type(output_type):
        raise TypeError(f"an unknown kind of type: {output_type}")
    return output_type


def _compile_subscribe(field: CollectedField, *, hide_suggestions: bool) -> Subscribe:
    resolve = field.definition.subscribe
    if resolve is None:
        raise NotCompilable("subscriber")
    coerce_arguments = argument_coercion(field, hide_suggestions=hide_suggestions)
    path: ResponsePath = (None, field.response_name, field.parent.name)

    async def subscribe(execution: Execution) -> AsyncIterable[Any]:
        try:
            arguments = coerce_arguments(execution.variables) if coerce_arguments is not None else {}
            events: Any = resolve(execution.root, execution.info(field, path), **arguments)
            if isawaitable(events):
                events = await events
            stream: AsyncIterable[Any] = assert_event_stream(events)
        except Exception as error:
            located: GraphQLError = locate_error(error, field.nodes, path)
            raise located from error
        return stream

    return subscribe
