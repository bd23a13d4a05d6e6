"""Bounds on the shape of a document, in time linear in its length.

Each fragment is measured once, however often it is spread: what doubling fragments come to is computed, not walked.

The cost of an operation: each field counts 1; a field that takes `first` counts what is below it once for each item of
its page (a variable counts as the largest page, no argument as the default); any other list counts what is below it ten
times. Introspection is counted without its lists, which a rule of graphql-core's bounds.
"""

from dataclasses import dataclass
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

from app.engine.limits.field_repetition import count_comparisons
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
"""Pairs of fields that write the same place of the answer: validation compares each pair, at 4 to 8 microseconds."""
LIST_SIZE: Final = 10
"""What a list without `first` counts as."""
_LIMIT: Final = 1_000_000
"""Sums stop growing here; the doubling of thousands of fragments would otherwise be a number of thousands of digits."""
_INTROSPECTION: Final = frozenset({"__schema", "__type"})


@dataclass(frozen=True, slots=True)
class SelectionSize:
    """What a selection set comes to with its fragments written out."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0
    cost: int = 0
    top_fields: int = 0
    """Fields on the first level."""


def exceeded_limits(document: DocumentNode, schema: GraphQLSchema) -> list[GraphQLError]:
    """The bounds that the document passes, as errors."""
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    for what, count, bound in (
        ("operations", len(operations), MAX_OPERATIONS),
        ("fragments", len(fragments), MAX_FRAGMENTS),
    ):
        if count > bound:
            return [GraphQLError(f"A document may hold at most {bound} {what}; this one holds {count:,}.")]
    ruler = SizeCalculator(schema, fragments)
    try:
        errors = [error for operation in operations for error in _too_large(operation, ruler.operation_size(operation))]
        # Only what has passed is compared: its fields, written out, are few.
        return errors or [
            error
            for operation in operations
            for error in _too_repetitive(operation, count_comparisons(operation, fragments))
        ]
    except RecursionError:  # a chain of hundreds of fragments
        return [GraphQLError(f"An operation may have at most {MAX_DEPTH} levels, fragments included.")]


def _too_large(operation: OperationDefinitionNode, size: SelectionSize) -> list[GraphQLError]:
    errors = [
        GraphQLError(
            f"An operation may have at most {bound:,} {what}, fragments included; this one has {count:,}.", operation
        )
        for what, count, bound in (
            ("levels", size.depth, MAX_DEPTH),
            ("fields at its root", size.top_fields, MAX_ROOT_FIELDS),
            ("aliases", size.aliases, MAX_ALIASES),
            ("directives", size.directives, MAX_DIRECTIVES),
            ("fields", size.fields, MAX_FIELDS),
        )
        if count > bound
    ]
    if not errors and size.cost > MAX_COST:
        return [
            GraphQLError(
                f"An operation may cost at most {MAX_COST:,}, each field counted once for each item of the pages it "
                f"stands in; this one costs {size.cost:,}. Ask for smaller pages (first) or fewer fields.",
                operation,
            )
        ]
    return errors


def _too_repetitive(operation: OperationDefinitionNode, count: int) -> list[GraphQLError]:
    if count <= MAX_COMPARISONS:
        return []
    return [GraphQLError("An operation may not ask for the same fields over and over.", operation)]


class SizeCalculator:
    """Measures the operations of one document."""

    def __init__(self, schema: GraphQLSchema, fragments: dict[str, FragmentDefinitionNode]) -> None:
        self._schema = schema
        self._fragments = fragments
        self._sizes: dict[str, SelectionSize] = {}

    def operation_size(self, node: OperationDefinitionNode) -> SelectionSize:
        size = self._size(node.selection_set, self._schema.get_root_type(node.operation))
        more = len(node.directives or ()) + sum(len(one.directives or ()) for one in node.variable_definitions or ())
        return SelectionSize(
            size.depth, size.fields, size.aliases, min(size.directives + more, _LIMIT), size.cost, size.top_fields
        )

    def _size(self, selections: SelectionSetNode, parent: Any) -> SelectionSize:
        depth = fields = aliases = directives = cost = top_fields = 0
        for node in selections.selections:
            if isinstance(node, FieldNode):
                found = self._field(node, parent)
            elif isinstance(node, FragmentSpreadNode):
                found = self._fragment(node.name.value)
            elif isinstance(node, InlineFragmentNode):
                found = self._size(node.selection_set, self._condition(node, parent))
            else:
                raise TypeError(f"an unknown kind of selection: {node.kind}")
            depth = max(depth, found.depth)
            fields = min(fields + found.fields, _LIMIT)
            aliases = min(aliases + found.aliases, _LIMIT)
            directives = min(directives + found.directives + len(node.directives or ()), _LIMIT)
            cost = min(cost + found.cost, _LIMIT)
            top_fields = min(top_fields + found.top_fields, _LIMIT)
        return SelectionSize(depth, fields, aliases, directives, cost, top_fields)

    def _field(self, node: FieldNode, parent: Any) -> SelectionSize:
        """Of a field with all below it. One that the schema lacks counts as a plain one: validation refuses it."""
        name = node.name.value
        has_fields = isinstance(parent, GraphQLObjectType | GraphQLInterfaceType)
        declared: GraphQLField | None = parent.fields.get(name) if has_fields else None
        below = get_named_type(declared.type) if declared is not None else None
        inner = self._size(node.selection_set, below) if node.selection_set else SelectionSize()
        items = 1 if name in _INTROSPECTION or declared is None else _items(node, declared, parent)
        return SelectionSize(
            # Introspection is as deep as its tools make it; a rule of graphql-core's bounds its nested lists.
            depth=1 if name in _INTROSPECTION else inner.depth + 1,
            fields=inner.fields + 1,
            aliases=inner.aliases + (node.alias is not None),
            directives=inner.directives,
            cost=1 + (inner.fields if name in _INTROSPECTION else items * inner.cost),
            top_fields=1,
        )

    def _fragment(self, name: str) -> SelectionSize:
        if name not in self._sizes:
            self._sizes[name] = (
                SelectionSize()
            )  # a fragment that spreads itself counts as nothing here: validation refuses it
            if fragment := self._fragments.get(name):
                size = self._size(fragment.selection_set, self._schema.get_type(fragment.type_condition.name.value))
                directives = min(size.directives + len(fragment.directives or ()), _LIMIT)
                self._sizes[name] = SelectionSize(
                    size.depth, size.fields, size.aliases, directives, size.cost, size.top_fields
                )
        return self._sizes[name]

    def _condition(self, node: InlineFragmentNode, parent: Any) -> Any:
        condition = node.type_condition
        return parent if condition is None else self._schema.get_type(condition.name.value)


def _items(node: FieldNode, declared: GraphQLField, parent: Any) -> int:
    """How many objects of what is below it the field may hold."""
    if (first := declared.args.get("first")) is not None:
        for argument in node.arguments or ():
            if argument.name.value == "first":
                value = argument.value
                if isinstance(value, IntValueNode) and len(value.value) <= 3:
                    return min(max(int(value.value), 1), MAX_PAGE)
                return MAX_PAGE
        return first.default_value if isinstance(first.default_value, int) else MAX_PAGE
    is_list = isinstance(get_nullable_type(declared.type), GraphQLList)
    is_page = parent.name.endswith("Connection")  # its field's `first` has counted its edges
    return LIST_SIZE if is_list and not is_page else 1
