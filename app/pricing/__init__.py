"""Prices: what one block run costs, by the rate card in force at an instant.

Terms
    rate card     a dated version of all prices; publishing adds the next version, and no version ever changes
    rule          `when {setting: value, ...} -> credits` per run, second, item, byte or US dollar of provider cost
    leaf          one scalar value of a condition, with its path; a rule is as specific as it has leaves
    quote         the price of one block run, with the rule that gave it

Invariants
    - Among the rules that match, the one with the most leaves decides, in whatever order they are listed. A card with
      two rules of a block that have equally many leaves and can both match cannot be published.
    - `false` also matches a missing setting; under a missing object every setting is missing. `null` is a value, not a
      missing setting. Numbers are never equal to booleans. Lists are never equal to anything.
    - An unknown block, and settings that match no rule, are refused. Free is an explicit price of 0.
    - A price is rounded up once, after an exact multiplication and division.
    - Every process has a rate card in memory before it takes effect, by the database's clock.

This package knows no accounts, tasks or charges, and writes nothing but rate cards.
"""
