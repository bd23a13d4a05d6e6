"""Tasks and their block runs: charging, holds and budgets, stopping when credits run out.

Terms
    task         one execution of an agent
    block run    one execution of one block inside a task; its id identifies its charge, even if it is sent repeatedly
    budget       credits held for a whole task; it pays for the task and for nested tasks that have no budget
    hold         credits claimed for one block run that is priced by measurement

Invariants
    - `charged` and `reversed` of a task always equal the sums of its entries.
    - A task that has ended cannot be charged.
    - A task becomes STOPPED only under its account's lock: by the charge or hold that could not be paid, or when the
      budget on which it draws expires.

The lock of an account also protects its tasks and block runs, because `ledger.posting` makes all changes.
"""
