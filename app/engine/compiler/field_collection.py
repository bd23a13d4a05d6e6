"""Which fields an operation asks of an object: a place is one of them, with all the nodes that ask for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphql import (
    BooleanValueNode,
    DirectiveNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
    is_abstract_type,
)

Conditions = Mapping[str, bool]
"""The variables that @skip and @include name, with the values that a variant is made for."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One field of one object type, where the document asks for it."""

    parent: GraphQLObjectType
    definition: GraphQLField
    response_name: str
    nodes: list[FieldNode]
    """Fields of one response name are one: their selections are joined."""

    @property
    def field_name(self) -> str:
        return self.nodes[0].name.value


class Selection:
    """Collects the fields that one operation asks of an object of a given type."""

    def __init__(
        self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode], conditions: Conditions
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._conditions = conditions

    def places(self, parent: GraphQLObjectType, selections: Iterable[SelectionSetNode]) -> list[Place]:
        """What these selections ask of `parent`, in order, each response name once."""
        grouped: dict[str, list[FieldNode]] = {}
        spread: set[str] = set()
        for selection in selections:
            self._collect(selection.selections, parent, grouped, spread)
        found = []
        for response_name, nodes in grouped.items():
            definition = self._schema.get_field(parent, nodes[0].name.value)
            if definition is not None:
                found.append(Place(parent, definition, response_name, nodes))
        return found

    def _collect(
        self,
        nodes: Iterable[SelectionNode],
        parent: GraphQLObjectType,
        grouped: dict[str, list[FieldNode]],
        spread: set[str],
    ) -> None:
        for node in nodes:
            if not self._is_included(node.directives):
                continue
            if isinstance(node, FieldNode):
                grouped.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
            elif isinstance(node, InlineFragmentNode):
                if self._applies(node, parent):
                    self._collect(node.selection_set.selections, parent, grouped, spread)
            elif isinstance(node, FragmentSpreadNode):
                fragment = self._fragments.get(node.name.value)
                if fragment is not None and node.name.value not in spread and self._applies(fragment, parent):
                    spread.add(node.name.value)
                    self._collect(fragment.selection_set.selections, parent, grouped, spread)

    def _applies(self, fragment: FragmentDefinitionNode | InlineFragmentNode, parent: GraphQLObjectType) -> bool:
        if fragment.type_condition is None:
            return True
        named = self._schema.get_type(fragment.type_condition.name.value)
        return named is parent or (is_abstract_type(named) and self._schema.is_sub_type(named, parent))

    def _is_included(self, directives: Iterable[DirectiveNode] | None) -> bool:
        """@skip goes before @include; a place must pass both."""
        return all(
            self._holds(directive) is (directive.name.value == "include")
            for directive in directives or ()
            if directive.name.value in {"skip", "include"}
        )

    def _holds(self, directive: DirectiveNode) -> bool:
        [argument] = directive.arguments or ()
        if isinstance(argument.value, VariableNode):
            return self._conditions[argument.value.name.value]
        return isinstance(argument.value, BooleanValueNode) and argument.value.value
