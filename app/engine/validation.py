"""graphql-core's rules of validation, walked as one: which of them has a method for which kind is known beforehand.

A visitor asks for its methods by the name of a node's kind (`enter_field`, `leave_field`, …). Rules are made anew for
each document, and each of some thirty was asked again at each of some twelve kinds, nearly always in vain: that was two
fifths of what an unseen document cost. The table here is filled by the first documents:

    "field": entered by ScalarLeafs (8), FieldsOnCorrectType (9), …; left by ProvidedRequiredArguments (27)
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

from graphql import BREAK, SKIP, ASTValidationRule, Node, Visitor
from graphql.language.visitor import EnterLeaveVisitor
from graphql.validation import ASTValidationContext

_Method = Callable[..., Any]


class _AtKind(NamedTuple):
    """Which rules, by position, have something to do at a kind of node, and by which method (None: nothing there)."""

    entered: tuple[tuple[int, str | None], ...]
    left: tuple[tuple[int, str | None], ...]


def combine_rules(rules: Iterable[type[ASTValidationRule]]) -> type[ASTValidationRule]:
    """One rule that finds what these find, in the same order."""
    return type("AllRules", (_Together,), {"rules": tuple(rules), "at_kinds": {}})


class _Together(ASTValidationRule):
    """As graphql-core's ParallelVisitor: a rule may pass over what is below a node, or look no further."""

    rules: ClassVar[tuple[type[ASTValidationRule], ...]]
    at_kinds: ClassVar[dict[str, _AtKind]]

    def __init__(self, context: ASTValidationContext) -> None:
        super().__init__(context)
        self._rules = [rule(context) for rule in self.rules]
        self._passing: list[Any] = [None] * len(self._rules)
        """For each rule the node below which it passes over everything; BREAK: it looks no further."""

    def get_enter_leave_for_kind(self, kind: str) -> EnterLeaveVisitor:
        try:
            return self.enter_leave_map[kind]
        except KeyError:
            at = self.at_kinds.get(kind)
            if at is None:
                at = self.at_kinds[kind] = _at_kind(self.rules, kind)
            found = EnterLeaveVisitor(
                self._entering(at.entered) if at.entered else None, self._leaving(at.left) if at.left else None
            )
            self.enter_leave_map[kind] = found
            return found

    def _bound(self, named: tuple[tuple[int, str | None], ...]) -> list[tuple[int, _Method | None]]:
        return [(place, getattr(self._rules[place], name) if name else None) for place, name in named]

    def _entering(self, named: tuple[tuple[int, str | None], ...]) -> _Method:
        methods, passing = self._bound(named), self._passing

        def enter(node: Node, *where: Any) -> None:
            for place, method in methods:
                if passing[place] is None and method is not None and (told := method(node, *where)) is not None:
                    passing[place] = node if told is SKIP or told is False else _ended(told)

        return enter

    def _leaving(self, named: tuple[tuple[int, str | None], ...]) -> _Method:
        methods, passing = self._bound(named), self._passing

        def leave(node: Node, *where: Any) -> None:
            for place, method in methods:
                if passing[place] is node:
                    passing[place] = None
                elif passing[place] is None and method is not None and (told := method(node, *where)) is not None:
                    passing[place] = None if told is SKIP or told is False else _ended(told)

        return leave


def _ended(told: object) -> object:
    """What stands for a rule that answered so and looks no further. Raises: TypeError: it would edit the document."""
    if told is BREAK or told is True:
        return BREAK
    raise TypeError(f"a rule of validation edits nothing, but answered {told!r}")


def _at_kind(rules: Iterable[type[ASTValidationRule]], kind: str) -> _AtKind:
    entered, left = [], []
    for place, rule in enumerate(rules):
        entering, leaving = _named(rule, "enter", kind), _named(rule, "leave", kind)
        if entering:
            entered.append((place, entering))
        if entering or leaving:  # who passes over a node may only do so until it is left
            left.append((place, leaving))
    return _AtKind(tuple(entered), tuple(left))


def _named(rule: type[Visitor], what: str, kind: str) -> str | None:
    """The method of a rule for a kind of node, or its method for any."""
    return next((name for name in (f"{what}_{kind}", what) if hasattr(rule, name)), None)
