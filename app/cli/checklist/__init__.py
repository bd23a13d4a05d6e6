"""What `python -m app check` looks at, point by point.

A *point* is one line of the README's checklist for production; `points.POINTS` names them in its order. Each is looked
at whatever the others gave, but those that need the database, or its tables, which are then *not looked at*. A point
reads and never writes. What it says goes to a screen or into a log: no secret, no address, no text of a foreign
fault, which may repeat one.
"""
