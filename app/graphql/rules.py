"""graphql-core's rules of validation, each of which looks its methods up once, and not again for each document.

A visitor asks for its methods by the name of a node's kind (`enter_field`, `leave_field`, …). A rule is made anew for
each document, and each of some thirty rules asked again for each of some twelve kinds, nearly always in vain, which was
a third of what an unseen document cost.
"""

from collections.abc import Iterable
from typing import Final

from graphql import ASTValidationRule, Visitor
from graphql.language.visitor import EnterLeaveVisitor

_NOTHING: Final = EnterLeaveVisitor(None, None)


def looked_up_once(rules: Iterable[type[ASTValidationRule]]) -> tuple[type[ASTValidationRule], ...]:
    """These rules, as quick ones."""
    return tuple(_quick(rule) for rule in rules)


def _quick(rule: type[ASTValidationRule]) -> type[ASTValidationRule]:
    return type(rule.__name__, (_Quick, rule), {"passed_by": frozenset()})


class _Quick(Visitor):
    """Comes before a rule's own class."""

    passed_by: frozenset[str]
    """Kinds of nodes at which the rule has nothing to do, as far as it was asked."""

    def get_enter_leave_for_kind(self, kind: str) -> EnterLeaveVisitor:
        if kind in self.passed_by:
            return _NOTHING
        found = super().get_enter_leave_for_kind(kind)
        if found == _NOTHING:
            own = type(self)
            own.passed_by |= {kind}
        return found
