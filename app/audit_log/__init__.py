"""The audit log: who did what, with which key, in which request, why, and the state before and after.

An audit record describes one action of an operator or a service: a change that a mutation or a command has made.
Opening the billing portal and switching auto top-up off are recorded even if they change nothing. A mutation that is
refused or replayed is not recorded, unless the refusal itself changes something, such as stopping a task.

Invariants
- A record is written in the transaction of the change. Neither exists without the other.
- Records are only added. Privileges of the application's role and triggers prevent changes.
- Charges, holds and captures by services are not recorded: the entry, hold or block run names the actor (the service
  key) and the request. Charges, holds and captures by operators are recorded, with the key that signed the token.

Block settings and inputs are never recorded.
"""
