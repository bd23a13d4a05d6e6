"""Prices: what one block run costs, by the rate card in force at an instant.

Words
    rate card     a dated version of all prices; publishing makes the next version, and no version ever changes
    rule          `when {setting: value, …} -> credits` per run, second, item, byte or US dollar of provider cost
    leaf          one scalar of a condition, at the end of its path; a rule is as specific as it has leaves
    quote         the price of one block run, with the rule that said so

Invariants
    - The matching rule with most leaves wins, whatever the order. In a published card no two rules of a block with
      equally many leaves can both match: such a card is refused.
    - `false` also matches a setting that is missing, and all that would stand under a missing object is missing.
      `null` is a value, not a missing setting; numbers are never booleans; lists are compared with nothing.
    - An unknown block, or settings that match nothing, is refused and never free. Free is an explicit 0.
    - A price is rounded up once, after multiplying and dividing exactly.
    - A card that takes effect is in the memory of every process before that instant, by the database's clock.

The room does not know accounts, tasks or charges, and never writes anything but rate cards.
"""
