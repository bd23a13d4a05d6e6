"""The trail of what operators and services do: who, by which key, for which request, why, what was before and after.

Words: an *act* is one mutation by one caller, as the edge knows it; a *record* is what stays of an act that had an
effect. An act that was refused, or had been done before, leaves none; one whose refusal stops a task has that effect.

Invariants
- A record is written in the transaction of its effect, in the same statement: neither is ever there without the other.
- Records are added and never changed or deleted: grants to the application's role and triggers refuse it.
- What moves credits by a service's everyday work (charges, holds, captures) leaves no record: its entry, hold or block
  run is the trail, and names actor and request; a service's actor is its key's id. An operator who does such work
  leaves a record too, with the key that signed its token.

What this room does not do: it decides nothing, and knows no account's rules. Settings and inputs of blocks never enter.
"""
