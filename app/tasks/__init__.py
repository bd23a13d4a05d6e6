"""What the product does with credits: tasks, the block runs that are charged inside them, and what they cost.

Words: a *task* is one execution of an *agent*; a *block run* is one execution of one block inside a task, and its id is
the identity of its charge: however often and however it is sent, it moves credits once.

Invariants: a task's charged and reversed are the sums of its entries at every moment; what has ended takes no charge;
STOPPED is written only by the charge that could not be paid, under the account's lock.

The account's lock guards its tasks and block runs too; whoever changes one goes through `ledger.posting`.
"""
