"""A GraphQL engine on Strawberry and graphql-core. It imports no domain package.

`declare` declares a schema. Every field states the permission that it needs (`permissions`). `schema` raises an error
if a field states none. A document is parsed, checked against limits and validated once (`documents`, `limits`). Its
operations are compiled to closures (`compiler`); graphql-core executes operations that cannot be compiled.
`execution.GraphQLEngine` does all this for the transports (`transports`: HTTP, server-sent events, WebSocket).
Persisted documents are read before the first request (`persisted`).

Terms
- context: the state of one request, which its resolvers share (`context.RequestContext`). It contains the state of the
  application, which the engine passes on and never reads.
- event, item: the resolver of a subscription yields events. The operation is executed for each event, and the response
  is sent as an item.
- fault: an unexpected exception. It is logged with a reference, and the client receives only the reference (`errors`).

Invariants
- Permissions, the limits of operations and the masking of errors are the same for every transport: `execution` applies
  them.
- The text of an unexpected exception is never sent to a client.
- The size of every input is checked before the input is parsed.
"""
