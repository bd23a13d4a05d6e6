"""How often a document writes the same place of the answer.

Validation compares such fields pair by pair (whether they can be merged), so that a few hundred of them would occupy
the process for a second.
"""

from collections.abc import Iterable, Mapping

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

Fragments = Mapping[str, FragmentDefinitionNode]


def count_comparisons(operation: OperationDefinitionNode, fragments: Fragments) -> int:
    """The pairs of fields with the same place in the answer, at all levels.

    The operation must have been found small: its fields, fragments written out, are walked once each.
    """
    pairs = 0
    waiting: list[list[SelectionSetNode]] = [[operation.selection_set]]
    while waiting:
        for nodes in _merged(waiting.pop(), fragments).values():
            pairs += len(nodes) * (len(nodes) - 1) // 2
            if below := [node.selection_set for node in nodes if node.selection_set is not None]:
                waiting.append(below)
    return pairs


def _merged(sets: Iterable[SelectionSetNode], fragments: Fragments) -> dict[str, list[FieldNode]]:
    """The fields on the first level of all these, by the name that they have in the answer."""
    found: dict[str, list[FieldNode]] = {}
    spread: set[str] = set()
    waiting = list(sets)
    while waiting:
        for node in waiting.pop().selections:
            if isinstance(node, FieldNode):
                found.setdefault((node.alias or node.name).value, []).append(node)
            elif isinstance(node, InlineFragmentNode):
                waiting.append(node.selection_set)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in spread:
                spread.add(node.name.value)  # once, as validation and execution do
                if fragment := fragments.get(node.name.value):
                    waiting.append(fragment.selection_set)
    return found
