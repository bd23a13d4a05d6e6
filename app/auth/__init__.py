"""Who calls, and how it proves itself.

A **viewer** is whoever calls, once it has proved itself: a *user* (a JWT of the platform), a *service* (a service
key), an *operator* (a JWT with the admin role). Nobody at all is `None`. A **scope** says what a service or an operator
may do. `doorway` turns what a request brought (HTTP header, connection_init) into a viewer; `rules` says what it may.

Invariants
- A token counts only with a signature by a known asymmetric key, by an algorithm of that key's family, and with
  exp, iat, sub, aud and iss; issuer and audience are compared exactly. `none` is in no list; HS256 is in one only where
  the operator has chosen a shared secret instead of a key set, and then it stands there alone.
- A user has no scopes: it can never charge, grant or refund, whatever its token says.
- A service key is stored as a hash, shown once, and dead within 5 seconds of its revocation.
- Refusals say what to do and never which part of a secret was wrong.

What this room does not do: it knows no account, no GraphQL and no HTTP request; which field needs what stands at the
edge.
"""
