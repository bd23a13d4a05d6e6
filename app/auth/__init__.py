"""Authentication, and the scopes of callers.

A *caller* is a user (a JWT of the platform), an operator (a JWT with the admin role) or a service (a service key). An
anonymous caller is `None`. A *scope* is a permission of a service or an operator. `authenticator` finds the caller of a
credential; `caller` decides which scopes a caller has and which accounts it may read.

Invariants
- A token is accepted only if it is signed by a known key, with an algorithm of that key's family, and has exp, iat,
  sub, aud and iss; issuer and audience are compared exactly. The algorithm `none` is never accepted. HS256 is accepted
  only if a shared secret is configured instead of a key set, and then no other algorithm is.
- A user has no scopes, so it can never charge, grant or refund, even if its token claims scopes.
- Only the hash of a service key is stored. A revoked key is refused after at most 5 seconds.
- An error message never says which part of a service key or signature was wrong.
"""
