"""What a plan does not understand, found before anything is compiled."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from graphql import (
    BooleanValueNode,
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    OperationDefinitionNode,
    VariableNode,
)
from graphql.language import visit
from graphql.language.visitor import Visitor

log = logging.getLogger(__name__)

_UNDERSTOOD: Final = frozenset({"skip", "include"})
_INTROSPECTION: Final = frozenset({"__schema", "__type"})


class NotCompilable(Exception):
    """The ordinary executor must take it; the text says why, in a word or two, and is what is counted."""


@contextmanager
def compiler_faults_as_not_compilable() -> Iterator[None]:
    """A fault of the compiler's own leaves the operation to the ordinary executor, too. Raises: NotUnderstood."""
    try:
        yield
    except NotCompilable:
        raise
    except Exception as fault:
        log.exception("an operation could not be compiled; the ordinary executor takes it")
        raise NotCompilable("fault") from fault


def fragments_and_conditions(
    document: DocumentNode, operation: OperationDefinitionNode
) -> tuple[dict[str, FragmentDefinitionNode], list[str]]:
    """The fragments of the document, and the variables that @skip and @include name, in order.

    Raises: NotUnderstood.
    """
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    if operation.directives or any(node.directives or node.variable_definitions for node in fragments.values()):
        raise NotCompilable("directive")
    if any(definition.directives for definition in operation.variable_definitions or ()):
        raise NotCompilable("directive")
    reader = _Reader()
    for node in (operation, *fragments.values()):
        visit(node, reader)
    return fragments, list(reader.conditions)


class _Reader(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.conditions: dict[str, None] = {}

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        if node.name.value in _INTROSPECTION:
            raise NotCompilable("introspection")

    def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
        if node.name.value not in _UNDERSTOOD:
            raise NotCompilable("directive")
        self._read(node.arguments or ())

    def _read(self, arguments: Iterable[Any]) -> None:
        values = [argument.value for argument in arguments if argument.name.value == "if"]
        if len(values) != 1 or not isinstance(values[0], BooleanValueNode | VariableNode):
            raise NotCompilable("condition")
        if isinstance(values[0], VariableNode):
            self.conditions[values[0].name.value] = None
