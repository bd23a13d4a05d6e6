"""The production checklist: what `python -m app check` verifies.

`runner.CHECKS` lists the checks in the order of the documentation. Every check runs, whatever the others returned,
except one whose required check (the database, its migrations) did not pass: it is skipped. Checks only read.

Messages go to terminals and logs. They contain no secret, no URL, and no text of a foreign exception, which may
contain either.
"""
