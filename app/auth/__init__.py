"""Authentication and the permissions of callers.

A *caller* is a user (a JWT of the platform), an operator (a JWT with the admin role) or a service (a service key).
`None` is an anonymous caller. A *scope* is what a service or an operator may do. `authenticator` turns a credential
into a caller; `caller` decides what a caller may do.

Invariants
- A token is accepted only if it is signed by a known key, with an algorithm of that key's family, and has exp, iat,
  sub, aud and iss; issuer and audience are compared exactly. `none` is never accepted. HS256 is accepted only if a
  shared secret is configured instead of a key set, and then nothing else is.
- A user has no scopes, whatever its token says: it can never charge, grant or refund.
- A service key is stored as a hash and shown once. It is refused within 5 seconds of its revocation.
- An error message never says which part of a credential was wrong.
"""
