"""The audit log: who did what, with which key, in which request, why, and the state before and after.

An audit record describes one mutation by an operator or a service that had an effect. A mutation that is refused or
replayed leaves no record, unless the refusal itself has an effect (it stops a task).

Invariants
- A record is written in the transaction of its effect, in the same statement. Neither exists without the other.
- Records are only added. Privileges of the application's role and triggers prevent changes.
- What services do all day (charges, holds, captures) leaves no record: its entry, hold or block run names the actor
  (the service key) and the request. If an operator does it, it leaves a record as well, with the key that signed the
  token.

Block settings and inputs are never recorded.
"""
