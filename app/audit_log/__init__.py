"""The audit log: who made which change, with which key, in which request, why, and the state before and after.

An audit record describes one change that a mutation of an operator or a service has made. A mutation that is refused or
replayed is not recorded, unless the refusal itself changes something (it stops a task).

Invariants
- A record is written in the transaction of the change, in the same statement. Neither exists without the other.
- Records are only added. Privileges of the application's role and triggers prevent changes.
- Charges, holds and captures by services are not recorded: the entry, hold or block run names the actor (the service
  key) and the request. Those by operators are recorded as well, with the key that signed the token.

Block settings and inputs are never recorded.
"""
