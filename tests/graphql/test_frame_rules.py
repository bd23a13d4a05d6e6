"""Quick rules find what graphql-core's own find."""

from random import Random

from graphql import ASTValidationRule, FieldNode, GraphQLError, parse, specified_rules, validate

from app.graphql.rules import looked_up_once
from app.graphql.schema import build
from tests.graphql.plans.writing import Author

SCHEMA = build()._schema
DOCUMENTS = 150
WRONG = 0.1


def test_documents_written_at_random_have_the_same_errors() -> None:
    quick = looked_up_once(specified_rules)
    assert [rule.__name__ for rule in quick] == [rule.__name__ for rule in specified_rules]
    root = SCHEMA.query_type
    assert root is not None
    found = 0
    for seed in range(DOCUMENTS):
        chance = Random(seed)  # noqa: S311  what was written once is written again
        document = parse(Author(chance, SCHEMA, {}, wrong=WRONG).request(root, "query").query)
        errors = [error.formatted for error in validate(SCHEMA, document, quick)]
        assert errors == [error.formatted for error in validate(SCHEMA, document)]
        found += bool(errors)
    assert DOCUMENTS // 5 < found < DOCUMENTS * 4 // 5


def test_a_rule_that_has_methods_for_some_kinds_is_asked_at_those_only() -> None:
    asked: list[str] = []

    class Names(ASTValidationRule):
        def enter_field(self, node: FieldNode, *_: object) -> None:
            self.report_error(GraphQLError(node.name.value))

        def __getattr__(self, name: str) -> object:
            asked.append(name)
            raise AttributeError(name)

    rules = looked_up_once([Names])
    document = parse("{ noticeSettings notices { __typename } }")
    for _ in range(2):
        assert [error.message for error in validate(SCHEMA, document, rules)] == [
            "noticeSettings", "notices", "__typename",
        ]  # fmt: skip
    assert asked.count("enter_operation_definition") == 1
    assert asked.count("leave_field") == 2
