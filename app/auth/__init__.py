"""Authentication, and the scopes of callers.

A *caller* is a user (a JWT of the platform), an operator (a JWT with the admin role) or a service (a service key). An
anonymous caller is `None`. A *scope* is a permission of a service or an operator. `authenticator` finds the caller of a
credential; `caller` decides which scopes a caller has and which accounts it may read.

Invariants
- A token is accepted only if it is signed by a known key, with an algorithm of that key's family, and has exp, iat,
  sub, iss and an audience; issuer and audience are compared exactly. The algorithm `none` is never accepted. If a
  shared secret is configured instead of a key set, only HS256 is accepted; otherwise HS256 is never accepted.
- A user has no scopes, so it can never charge, grant or refund, even if its token claims scopes.
- Only the hash of a service key is stored. A revoked key is refused after at most 5 seconds.
- In production, an error message never says why a credential was rejected.
"""
