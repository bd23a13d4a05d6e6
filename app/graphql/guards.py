"""Bounds on the shape of a document, in time linear in its length.

Each fragment is measured once, however often it is spread: what doubling fragments come to is computed, not walked.
"""

from dataclasses import dataclass
from typing import Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

MAX_OPERATIONS: Final = 10
MAX_DEPTH: Final = 15
MAX_ROOT_FIELDS: Final = 20
MAX_ALIASES: Final = 100
MAX_FIELDS: Final = 1_000
_LIMIT: Final = 1_000_000
"""Sums stop growing here; the doubling of thousands of fragments would otherwise be a number of thousands of digits."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a selection set comes to with its fragments written out."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    top_fields: int = 0
    """Fields on the first level."""


def exceeded(document: DocumentNode) -> list[GraphQLError]:
    """The bounds that the document passes, as errors."""
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    if len(operations) > MAX_OPERATIONS:
        return [
            GraphQLError(f"A document may hold at most {MAX_OPERATIONS} operations; this one holds {len(operations)}.")
        ]
    ruler = _Ruler(document)
    try:
        return [
            error for operation in operations for error in _too_large(operation, ruler.size(operation.selection_set))
        ]
    except RecursionError:  # a chain of hundreds of fragments
        return [GraphQLError(f"An operation may have at most {MAX_DEPTH} levels, fragments included.")]


def _too_large(operation: OperationDefinitionNode, size: Size) -> list[GraphQLError]:
    return [
        GraphQLError(
            f"An operation may have at most {bound:,} {what}, fragments included; this one has {count:,}.", operation
        )
        for what, count, bound in (
            ("levels", size.depth, MAX_DEPTH),
            ("fields at its root", size.top_fields, MAX_ROOT_FIELDS),
            ("aliases", size.aliases, MAX_ALIASES),
            ("fields", size.fields, MAX_FIELDS),
        )
        if count > bound
    ]


class _Ruler:
    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._sizes: dict[str, Size] = {}

    def size(self, selections: SelectionSetNode) -> Size:
        depth = fields = aliases = top_fields = 0
        for node in selections.selections:
            if isinstance(node, FieldNode):
                inner = self.size(node.selection_set) if node.selection_set else Size()
                # Introspection is as deep as its tools make it; a rule of graphql-core's bounds its nested lists.
                inner_depth = 0 if node.name.value in {"__schema", "__type"} else inner.depth
                found = Size(inner_depth + 1, inner.fields + 1, inner.aliases + (node.alias is not None), 1)
            elif isinstance(node, FragmentSpreadNode):
                found = self._fragment(node.name.value)
            elif isinstance(node, InlineFragmentNode):
                found = self.size(node.selection_set)
            else:
                raise TypeError(f"an unknown kind of selection: {node.kind}")
            depth = max(depth, found.depth)
            fields = min(fields + found.fields, _LIMIT)
            aliases = min(aliases + found.aliases, _LIMIT)
            top_fields = min(top_fields + found.top_fields, _LIMIT)
        return Size(depth, fields, aliases, top_fields)

    def _fragment(self, name: str) -> Size:
        if name not in self._sizes:
            self._sizes[name] = Size()  # a fragment that spreads itself counts as nothing here: validation refuses it
            if fragment := self._fragments.get(name):
                self._sizes[name] = self.size(fragment.selection_set)
        return self._sizes[name]
