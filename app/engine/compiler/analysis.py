"""Analysis of an operation: whether it can be compiled, and which fields it selects from an object type."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    BooleanValueNode,
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
    is_abstract_type,
)
from graphql.language import visit
from graphql.language.visitor import Visitor

log = logging.getLogger(__name__)

_CONDITIONAL_DIRECTIVES: Final = frozenset({"skip", "include"})
_INTROSPECTION_FIELDS: Final = frozenset({"__schema", "__type"})

Conditions = Mapping[str, bool]
"""The variables in @skip and @include, with the values for which a variant is compiled."""


class NotCompilable(Exception):
    """The compiler does not support the operation. The text is a short reason, by which such operations are counted."""


@contextmanager
def faults_as_not_compilable() -> Iterator[None]:
    """Convert faults of the compiler to NotCompilable, so that graphql-core executes the operation."""
    try:
        yield
    except NotCompilable:
        raise
    except Exception as fault:
        log.exception("an operation could not be compiled; graphql-core executes it")
        raise NotCompilable("fault") from fault


def fragments_and_conditions(
    document: DocumentNode, operation: OperationDefinitionNode
) -> tuple[dict[str, FragmentDefinitionNode], list[str]]:
    """Return the fragments of the document by name, and the variables in @skip and @include, in the order of first use.

    Raises: NotCompilable.
    """
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    if operation.directives or any(node.directives or node.variable_definitions for node in fragments.values()):
        raise NotCompilable("directive")
    if any(definition.directives for definition in operation.variable_definitions or ()):
        raise NotCompilable("directive")
    visitor = _ConditionVisitor()
    for node in (operation, *fragments.values()):
        visit(node, visitor)
    return fragments, list(visitor.conditions)


class _ConditionVisitor(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.conditions: dict[str, None] = {}

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        if node.name.value in _INTROSPECTION_FIELDS:
            raise NotCompilable("introspection")

    def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
        if node.name.value not in _CONDITIONAL_DIRECTIVES:
            raise NotCompilable("directive")
        values = [argument.value for argument in node.arguments or () if argument.name.value == "if"]
        if len(values) != 1 or not isinstance(values[0], BooleanValueNode | VariableNode):
            raise NotCompilable("condition")
        if isinstance(values[0], VariableNode):
            self.conditions[values[0].name.value] = None


@dataclass(frozen=True, slots=True, eq=False)
class CollectedField:
    """A field that the document selects from one object type."""

    parent: GraphQLObjectType
    definition: GraphQLField
    response_name: str
    nodes: list[FieldNode]
    """All selections with this response name. Their selection sets are merged."""

    @property
    def field_name(self) -> str:
        return self.nodes[0].name.value


class FieldCollector:
    """Implements CollectFields of the specification for one operation and one set of conditions."""

    def __init__(
        self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode], conditions: Conditions
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._conditions = conditions

    def collect(self, parent: GraphQLObjectType, selection_sets: Iterable[SelectionSetNode]) -> list[CollectedField]:
        """Return the fields that these selection sets select from `parent`, in order, one for each response name."""
        grouped: dict[str, list[FieldNode]] = {}
        visited_fragments: set[str] = set()
        for selection_set in selection_sets:
            self._collect(selection_set.selections, parent, grouped, visited_fragments)
        fields = []
        for response_name, nodes in grouped.items():
            definition = self._schema.get_field(parent, nodes[0].name.value)
            if definition is not None:
                fields.append(CollectedField(parent, definition, response_name, nodes))
        return fields

    def _collect(
        self,
        nodes: Iterable[SelectionNode],
        parent: GraphQLObjectType,
        grouped: dict[str, list[FieldNode]],
        visited_fragments: set[str],
    ) -> None:
        for node in nodes:
            if not self._is_included(node.directives):
                continue
            if isinstance(node, FieldNode):
                grouped.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
            elif isinstance(node, InlineFragmentNode):
                if self._applies(node, parent):
                    self._collect(node.selection_set.selections, parent, grouped, visited_fragments)
            elif isinstance(node, FragmentSpreadNode):
                name = node.name.value
                fragment = self._fragments.get(name)
                if fragment is not None and name not in visited_fragments and self._applies(fragment, parent):
                    visited_fragments.add(name)
                    self._collect(fragment.selection_set.selections, parent, grouped, visited_fragments)

    def _applies(self, fragment: FragmentDefinitionNode | InlineFragmentNode, parent: GraphQLObjectType) -> bool:
        if fragment.type_condition is None:
            return True
        condition = self._schema.get_type(fragment.type_condition.name.value)
        return condition is parent or (is_abstract_type(condition) and self._schema.is_sub_type(condition, parent))

    def _is_included(self, directives: Iterable[DirectiveNode] | None) -> bool:
        """Return whether a selection with these directives is included in the response."""
        return all(
            self._condition(directive) is (directive.name.value == "include")
            for directive in directives or ()
            if directive.name.value in _CONDITIONAL_DIRECTIVES
        )

    def _condition(self, directive: DirectiveNode) -> bool:
        [argument] = directive.arguments or ()
        if isinstance(argument.value, VariableNode):
            return self._conditions[argument.value.name.value]
        return isinstance(argument.value, BooleanValueNode) and argument.value.value
