"""Auto top-up: accounts that buy credits when little is left, within the caps that their owners set.

`auto_rules`: pure, whether to buy and why not. `auto`: on and off, and one purchase at a time. `refilling`:
who is looked at, after a change or by a sweep. `auto_rows` has the rows.
"""
