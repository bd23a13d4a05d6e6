"""The edge: GraphQL over HTTP, event streams and WebSockets (`transports`). It translates and decides nothing.

A **document** is the text of a request, parsed, guarded and validated once (`documents`). A **plan** is that document
compiled (`plans`); what has no plan is executed by graphql-core. What a caller may ask for is bounded (`limits`). A
**need** is what a field asks of its viewer (`access`). A **refusal** is an expected no, returned as a member of the
field's union (`refusals`). A **fault** is anything unexpected, masked and logged under a reference (`faults`).

Invariants
- Every field says what it needs and everything has a description; a schema with a field that does not is not built.
- The same rules hold over every transport: those only read bytes and write bytes.
- The text of an unexpected exception never reaches a client.
- Nothing is parsed before its size is known to be allowed.

What this room does not do: it holds no rule of the domain and writes no row. Only `main` and the commands import it.
"""
