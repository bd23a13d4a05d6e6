"""Rules that are walked as one find what graphql-core finds with each by itself."""

from random import Random

import pytest
from graphql import (
    BREAK,
    SKIP,
    ASTValidationRule,
    FieldNode,
    GraphQLError,
    VisitorAction,
    parse,
    specified_rules,
    validate,
)

from app.api.schema import build_schema
from app.engine.validation import combine_rules
from tests.engine.document_generator import DocumentGenerator

SCHEMA = build_schema()._schema
DOCUMENTS = 150
WRONG = 0.1
NESTED = parse("{ notifications { edges { node { kind } } } balance { available } }")


def test_documents_written_at_random_have_the_same_errors() -> None:
    one = combine_rules(specified_rules)
    root = SCHEMA.query_type
    assert root is not None
    found = 0
    for seed in range(DOCUMENTS):
        chance = Random(seed)  # noqa: S311  what was written once is written again
        document = parse(DocumentGenerator(chance, SCHEMA, {}, error_probability=WRONG).request(root, "query").query)
        errors = [error.formatted for error in validate(SCHEMA, document, [one])]
        assert errors == [error.formatted for error in validate(SCHEMA, document)]
        found += bool(errors)
    assert DOCUMENTS // 5 < found < DOCUMENTS * 4 // 5


class Names(ASTValidationRule):
    """Tells of every field that it is shown, and of every one that is left."""

    def enter_field(self, node: FieldNode, *_: object) -> VisitorAction | None:
        self.report_error(GraphQLError(f"in {node.name.value}"))
        return None

    def leave_field(self, node: FieldNode, *_: object) -> VisitorAction | None:
        self.report_error(GraphQLError(f"out {node.name.value}"))
        return None


class PassesOverEdges(Names):
    def enter_field(self, node: FieldNode, *_: object) -> VisitorAction | None:
        super().enter_field(node)
        return SKIP if node.name.value == "edges" else None


class EndsOnEnteringEdges(Names):
    def enter_field(self, node: FieldNode, *_: object) -> VisitorAction | None:
        super().enter_field(node)
        return BREAK if node.name.value == "edges" else None


class EndsOnLeavingNode(Names):
    def leave_field(self, node: FieldNode, *_: object) -> VisitorAction | None:
        super().leave_field(node)
        return BREAK if node.name.value == "node" else None


class AnyKind(ASTValidationRule):
    def enter(self, node: object, *_: object) -> None:
        self.report_error(GraphQLError(type(node).__name__))


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Names, 12),
        (PassesOverEdges, 7),
        (EndsOnEnteringEdges, 2),
        (EndsOnLeavingNode, 6),
        (AnyKind, 19),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_rule_passes_over_and_ends_as_by_itself(rule: type[ASTValidationRule], told: int) -> None:
    def messages(*rules: type[ASTValidationRule]) -> list[str]:
        return [error.message for error in validate(SCHEMA, NESTED, rules)]

    assert len(messages(rule)) == told
    assert messages(combine_rules([rule])) == messages(rule)
    assert messages(combine_rules([Names, rule, Names])) == messages(Names, rule, Names)


def test_a_rule_that_would_edit_the_document_is_refused() -> None:
    class Edits(ASTValidationRule):
        def enter_field(self, node: FieldNode, *_: object) -> FieldNode:
            return node

    with pytest.raises(TypeError, match="a rule of validation edits nothing, but answered FieldNode"):
        validate(SCHEMA, NESTED, [combine_rules([Edits])])


def test_a_rule_is_asked_for_its_methods_once_and_not_for_each_document() -> None:
    asked: list[str] = []

    class Watched(type):
        def __getattr__(cls, name: str) -> object:
            asked.append(name)
            raise AttributeError(name)

    class Rule(ASTValidationRule, metaclass=Watched):
        def enter_field(self, node: FieldNode, *_: object) -> None:
            self.report_error(GraphQLError(node.name.value))

    one = combine_rules([Rule])
    for _ in range(2):
        assert [error.message for error in validate(SCHEMA, parse("{ notifications { __typename } }"), [one])] == [
            "notices", "__typename",
        ]  # fmt: skip
    assert asked.count("enter_operation_definition") == 1
    assert asked.count("leave_field") == 1
