"""What is known of an operation before it runs: its name for the log, and whether it charges."""

from dataclasses import dataclass
from typing import Final

from graphql import FieldNode, OperationDefinitionNode, OperationType

UNLIMITED_MUTATIONS: Final = frozenset({"charge", "chargeBatch", "placeHold", "captureHold", "voidHold"})
"""The mutations of work in progress: they know OVERLOADED and no other limit, for a refusal means "do not run it"."""
MAX_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class OperationInfo:
    kind: str
    """query, mutation or subscription."""
    name: str
    """The operation's name, or that of its first field: letters, digits and underscores, at most 64."""
    is_unlimited: bool
    """Whether it does nothing but charge."""


def operation_info(operation: OperationDefinitionNode) -> OperationInfo:
    fields = [node.name.value if isinstance(node, FieldNode) else "..." for node in operation.selection_set.selections]
    first = next((name for name in fields if name != "..."), "fragment")
    return OperationInfo(
        kind=operation.operation.value,
        name=(operation.name.value if operation.name is not None else first)[:MAX_NAME],
        is_unlimited=operation.operation is OperationType.MUTATION and UNLIMITED_MUTATIONS.issuperset(fields),
    )
