"""A GraphQL engine on Strawberry and graphql-core. It knows nothing about credits.

A schema is declared with `declare`: every field names the permission it needs (`permissions`), and a schema with a
field that does not is not built (`schema`). A document is parsed, checked against limits and validated once
(`documents`, `limits`); its operations are compiled to closures (`compiler`), and what cannot be compiled is executed
by graphql-core. `execution.GraphQLEngine` does all this for the transports (`transports`: HTTP, server-sent events,
WebSocket). Persisted documents are known before the first request (`persisted`).

Terms
- context: the state of one request, which its resolvers share (`context.RequestContext`). It is generic over the
  state of the application, which the engine passes on and never reads.
- event, item: a subscription's resolver yields events; each is executed, and the response is sent as an item.
- fault: an unexpected exception. It is logged with a reference, and the client receives only the reference (`errors`).

Invariants
- The same rules hold over every transport: transports only read and write bytes.
- The text of an unexpected exception never reaches a client.
- Nothing is parsed before its size has been checked.
"""
