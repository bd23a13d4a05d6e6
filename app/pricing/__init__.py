"""Prices: the cost of one block run by the rate card that is in force.

Terms
    rate card     a dated version of all prices; publishing adds the next version, and no version ever changes
    rule          `when {setting: value, ...} -> credits` per run, second, item, byte or US dollar of provider cost
    leaf          one scalar value of a condition, with its path; a rule with more leaves is more specific
    quote         the price of one block run, with the rule that gave it

Invariants
    - Among the rules that match, the one with the most leaves decides. The order of rules has no meaning. A card cannot
      be published if two rules of a block have equally many leaves and can both match.
    - `false` also matches a missing setting; under a missing object every setting is missing. `null` is a value, not a
      missing setting. Numbers are never equal to booleans. Lists are never equal to anything.
    - Settings that match no rule are refused. So is an unknown block, unless the card declares unlisted blocks free. A
      free block has an explicit price of 0.
    - A price is rounded up once, after an exact multiplication and division.
    - No process prices a charge by a replaced rate card. By the database's clock, each process either reads a new card
      before the card takes effect, or reads the cards again before it gives a price.

This package does not use accounts, tasks or charges. It writes only rate cards and their audit records.
"""
