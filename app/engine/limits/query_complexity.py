"""Limits on the size and shape of a document. The computation takes time linear in its length.

The size of a fragment is computed once, and added wherever the fragment is spread. So fragments that spread other
fragments many times cost no extra time.

The cost of an operation is the sum of its fields, each of which counts 1. The subfields of a field with the argument
`first` count once for each item of its page (a variable counts as the largest page, a missing argument as its default).
The subfields of any other list count ten times. In introspection each field counts once; a validation rule of
graphql-core limits nested lists there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    get_named_type,
    get_nullable_type,
)

from app.engine.pagination import MAX_PAGE

MAX_OPERATIONS: Final = 10
MAX_FRAGMENTS: Final = 100
MAX_DEPTH: Final = 15
MAX_ROOT_FIELDS: Final = 20
MAX_ALIASES: Final = 100
MAX_DIRECTIVES: Final = 50
MAX_FIELDS: Final = 500
MAX_COST: Final = 25_000
MAX_COMPARISONS: Final = 2_000
"""The maximum number of pairs of fields with the same position in the response.

Validation compares each pair, in 4 to 8 microseconds, to decide whether the fields can be merged. Without a limit a few
hundred fields would block the process for a second.
"""
LIST_SIZE: Final = 10
"""The number of items that is assumed for a list without `first`."""
_SATURATION: Final = 1_000_000
"""Sums do not grow beyond this value. Nested fragments could otherwise lead to very large numbers."""
_INTROSPECTION_FIELDS: Final = frozenset({"__schema", "__type"})

Fragments = Mapping[str, FragmentDefinitionNode]


@dataclass(frozen=True, slots=True)
class SelectionSize:
    """The size of a selection set, including its fragments."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0
    cost: int = 0
    top_fields: int = 0
    """The number of fields of the first level."""


def exceeded_limits(document: DocumentNode, schema: GraphQLSchema) -> list[GraphQLError]:
    """Return an error for each limit that the document exceeds."""
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    for what, count, limit in (
        ("operations", len(operations), MAX_OPERATIONS),
        ("fragments", len(fragments), MAX_FRAGMENTS),
    ):
        if count > limit:
            return [GraphQLError(f"A document may have at most {limit} {what}; this one has {count:,}.")]
    calculator = SizeCalculator(schema, fragments)
    try:
        errors = [error for node in operations for error in _size_errors(node, calculator.operation_size(node))]
        # Comparisons are counted only if the number of fields is within its limit.
        return errors or [
            GraphQLError("An operation may not select the same fields over and over.", node)
            for node in operations
            if count_comparisons(node, fragments) > MAX_COMPARISONS
        ]
    except RecursionError:  # a chain of hundreds of fragments
        return [GraphQLError(f"An operation may have at most {MAX_DEPTH} levels, fragments included.")]


def _size_errors(operation: OperationDefinitionNode, size: SelectionSize) -> list[GraphQLError]:
    errors = [
        GraphQLError(
            f"An operation may have at most {limit:,} {what}, fragments included; this one has {count:,}.", operation
        )
        for what, count, limit in (
            ("levels", size.depth, MAX_DEPTH),
            ("fields at its root", size.top_fields, MAX_ROOT_FIELDS),
            ("aliases", size.aliases, MAX_ALIASES),
            ("directives", size.directives, MAX_DIRECTIVES),
            ("fields", size.fields, MAX_FIELDS),
        )
        if count > limit
    ]
    if not errors and size.cost > MAX_COST:
        return [
            GraphQLError(
                f"An operation may cost at most {MAX_COST:,}, where each field counts once for each item of the pages "
                f"around it; this one costs {size.cost:,}. Request smaller pages (first) or fewer fields.",
                operation,
            )
        ]
    return errors


class SizeCalculator:
    """Computes the sizes of the operations of one document."""

    def __init__(self, schema: GraphQLSchema, fragments: Fragments) -> None:
        self._schema = schema
        self._fragments = fragments
        self._fragment_sizes: dict[str, SelectionSize] = {}

    def operation_size(self, node: OperationDefinitionNode) -> SelectionSize:
        size = self._selection_set(node.selection_set, self._schema.get_root_type(node.operation))
        definitions = node.variable_definitions or ()
        more = len(node.directives or ()) + sum(len(definition.directives or ()) for definition in definitions)
        return replace(size, directives=min(size.directives + more, _SATURATION))

    def _selection_set(self, selection_set: SelectionSetNode, parent: Any) -> SelectionSize:
        depth = fields = aliases = directives = cost = top_fields = 0
        for node in selection_set.selections:
            if isinstance(node, FieldNode):
                size = self._field(node, parent)
            elif isinstance(node, FragmentSpreadNode):
                size = self._fragment(node.name.value)
            elif isinstance(node, InlineFragmentNode):
                condition = node.type_condition
                inner_parent = parent if condition is None else self._schema.get_type(condition.name.value)
                size = self._selection_set(node.selection_set, inner_parent)
            else:
                raise TypeError(f"an unknown kind of selection: {node.kind}")
            depth = max(depth, size.depth)
            fields = min(fields + size.fields, _SATURATION)
            aliases = min(aliases + size.aliases, _SATURATION)
            directives = min(directives + size.directives + len(node.directives or ()), _SATURATION)
            cost = min(cost + size.cost, _SATURATION)
            top_fields = min(top_fields + size.top_fields, _SATURATION)
        return SelectionSize(
            depth=depth, fields=fields, aliases=aliases, directives=directives, cost=cost, top_fields=top_fields
        )

    def _field(self, node: FieldNode, parent: Any) -> SelectionSize:
        """Return the size of a field with its subfields. An unknown field counts like a single object."""
        name = node.name.value
        is_introspection = name in _INTROSPECTION_FIELDS
        has_fields = isinstance(parent, GraphQLObjectType | GraphQLInterfaceType)
        definition: GraphQLField | None = parent.fields.get(name) if has_fields else None
        field_type = get_named_type(definition.type) if definition is not None else None
        inner = self._selection_set(node.selection_set, field_type) if node.selection_set else SelectionSize()
        items = 1 if is_introspection or definition is None else _max_items(node, definition, parent)
        return SelectionSize(
            # Tools send deep introspection queries. A validation rule of graphql-core limits their nested lists.
            depth=1 if is_introspection else inner.depth + 1,
            fields=inner.fields + 1,
            aliases=inner.aliases + (node.alias is not None),
            directives=inner.directives,
            cost=1 + (inner.fields if is_introspection else items * inner.cost),
            top_fields=1,
        )

    def _fragment(self, name: str) -> SelectionSize:
        if name not in self._fragment_sizes:
            self._fragment_sizes[name] = SelectionSize()  # ends the recursion of a cycle; validation refuses cycles
            if fragment := self._fragments.get(name):
                parent = self._schema.get_type(fragment.type_condition.name.value)
                size = self._selection_set(fragment.selection_set, parent)
                directives = min(size.directives + len(fragment.directives or ()), _SATURATION)
                self._fragment_sizes[name] = replace(size, directives=directives)
        return self._fragment_sizes[name]


def _max_items(node: FieldNode, definition: GraphQLField, parent: Any) -> int:
    """Return how many objects the field may return."""
    if (first := definition.args.get("first")) is not None:
        for argument in node.arguments or ():
            if argument.name.value == "first":
                value = argument.value
                if isinstance(value, IntValueNode) and len(value.value) <= 3:
                    return min(max(int(value.value), 1), MAX_PAGE)
                return MAX_PAGE
        return first.default_value if isinstance(first.default_value, int) else MAX_PAGE
    is_list = isinstance(get_nullable_type(definition.type), GraphQLList)
    is_page = parent.name.endswith("Connection")  # its items are counted by `first` of the field that contains it
    return LIST_SIZE if is_list and not is_page else 1


def count_comparisons(operation: OperationDefinitionNode, fragments: Fragments) -> int:
    """Return how many pairs of fields validation will compare."""
    pairs = 0
    pending: list[list[SelectionSetNode]] = [[operation.selection_set]]
    while pending:
        for nodes in _fields_by_response_name(pending.pop(), fragments).values():
            pairs += len(nodes) * (len(nodes) - 1) // 2
            if inner := [node.selection_set for node in nodes if node.selection_set is not None]:
                pending.append(inner)
    return pairs


def _fields_by_response_name(
    selection_sets: Iterable[SelectionSetNode], fragments: Fragments
) -> dict[str, list[FieldNode]]:
    """Return the fields on the first level of these selection sets."""
    found: dict[str, list[FieldNode]] = {}
    visited_fragments: set[str] = set()
    pending = list(selection_sets)
    while pending:
        for node in pending.pop().selections:
            if isinstance(node, FieldNode):
                found.setdefault((node.alias or node.name).value, []).append(node)
            elif isinstance(node, InlineFragmentNode):
                pending.append(node.selection_set)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in visited_fragments:
                visited_fragments.add(node.name.value)  # once, as in validation and execution
                if fragment := fragments.get(node.name.value):
                    pending.append(fragment.selection_set)
    return found
