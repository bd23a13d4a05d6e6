"""From an operation to closures: each place gets a step, each type a completion.

What stands below a union or an interface is compiled when the first object of a type is met: of a dozen kinds of errors
that a mutation may answer, most are never seen.
"""

from collections.abc import Callable
from typing import Any

from graphql import (
    GraphQLAbstractType,
    GraphQLLeafType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    SelectionSetNode,
    is_abstract_type,
    is_leaf_type,
)
from graphql.execution.executor import default_type_resolver

from app.engine.compiler import completion, field_execution
from app.engine.compiler.analysis import NotCompilable
from app.engine.compiler.arguments import arguments_of
from app.engine.compiler.completion import Fields
from app.engine.compiler.execution_state import Completion, Operation, Step
from app.engine.compiler.field_collection import Conditions, Place, Selection
from app.engine.compiler.leaf_types import leaf_completion, plain_classes
from app.engine.compiler.lists import ListCompletion
from app.engine.compiler.object_types import own_classes, sure_classes
from app.engine.compiler.resolvers import attribute_of, is_event, method_of, whole
from app.engine.compiler.subscribing import Beginning, beginning


class Compiler:
    """Compiles one operation for one set of conditions."""

    def __init__(self, operation: Operation, conditions: Conditions, count: Callable[[], None]) -> None:
        """`count`: called for each step, whenever it is made."""
        self._operation = operation
        self._schema = operation.schema
        self._selection = Selection(operation.schema, operation.fragments, conditions)
        self._count = count
        self.is_plain = True
        """Whether all that was compiled so far shows attributes of its source, and nothing else."""

    def root(self, parent: GraphQLObjectType, *, serially: bool) -> Fields:
        """The operation's own fields."""
        named = self._steps(parent, [self._operation.definition.selection_set])
        return completion.one_by_one(named) if serially else completion.together(named)

    def beginning(self, parent: GraphQLObjectType) -> Beginning:
        """How a subscription begins: it has one field. Raises: NotUnderstood."""
        places = self._selection.places(parent, [self._operation.definition.selection_set])
        if len(places) != 1:
            raise NotCompilable("root fields")
        return beginning(places[0], hides_suggestions=self._operation.hides_suggestions)

    def _steps(self, parent: GraphQLObjectType, selections: list[SelectionSetNode]) -> list[tuple[str, Step]]:
        return [(place.response_name, self._step(place)) for place in self._selection.places(parent, selections)]

    def _step(self, place: Place) -> Step:
        self._count()
        if place.field_name == "__typename":
            return field_execution.constant(place.parent.name)
        kind = _nullable(place.definition.type)
        leaf: Any = kind if is_leaf_type(kind) else None
        answering = field_execution.Answering(place, self._completion(place, place.definition.type), self._plain(kind))
        if (attribute := attribute_of(place, self._schema)) is not None:
            return field_execution.attribute(answering, attribute, leaf)
        arguments = arguments_of(place, hides_suggestions=self._operation.hides_suggestions)
        if is_event(place):
            return field_execution.event(answering, arguments)
        self.is_plain = False
        method = method_of(place, self._schema)
        if method is not None:
            return field_execution.method(answering, method, arguments)
        return field_execution.called(answering, whole(place), arguments)

    def _completion(self, place: Place, kind: GraphQLOutputType) -> Completion:
        if isinstance(kind, GraphQLNonNull):
            inner = kind.of_type
            if isinstance(inner, GraphQLObjectType):
                return self._object(place, inner, is_required=True)
            return completion.non_null(place, self._completion(place, inner))
        if isinstance(kind, GraphQLList):
            item = self._completion(place, kind.of_type)
            return ListCompletion(place, kind, item, self._plain(_nullable(kind.of_type)))
        if isinstance(kind, GraphQLObjectType):
            return self._object(place, kind)
        if is_abstract_type(kind):
            return self._abstract(place, kind)
        return leaf_completion(_leaf(kind))

    def _object(self, place: Place, kind: GraphQLObjectType, *, is_required: bool = False) -> Completion:
        below = [node.selection_set for node in place.nodes if node.selection_set]
        fields = completion.together(self._steps(kind, below))
        return completion.object_completion(place, kind, fields, own_classes(kind), is_required=is_required)

    def _abstract(self, place: Place, kind: GraphQLAbstractType) -> Completion:
        self.is_plain = False  # what stands below is compiled later
        made: dict[str, Completion] = {}

        def completion_of(found: GraphQLObjectType) -> Completion:
            if found.name not in made:
                made[found.name] = self._object(place, found)
            return made[found.name]

        resolve_type = kind.resolve_type or default_type_resolver
        return completion.abstract_completion(
            place, kind, completion_of, sure_classes(self._schema, kind), resolve_type
        )

    def _plain(self, kind: Any) -> frozenset[type]:
        """Classes whose objects do not wait, where this type is expected."""
        if isinstance(kind, GraphQLList):
            return frozenset({list, tuple})
        if isinstance(kind, GraphQLObjectType):
            return own_classes(kind)
        if is_abstract_type(kind):
            return frozenset(sure_classes(self._schema, kind))
        return plain_classes(kind)


def _nullable(kind: GraphQLOutputType) -> Any:
    return kind.of_type if isinstance(kind, GraphQLNonNull) else kind


def _leaf(kind: Any) -> GraphQLLeafType:
    if not is_leaf_type(kind):
        raise TypeError(f"an unknown kind of type: {kind}")
    return kind
