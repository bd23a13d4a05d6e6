"""Compiler: turns a validated GraphQL operation into Python closures, which execute it.

For each request, graphql-core's executor collects the fields of every object, looks each field up in the schema, makes
an info and a path for it, and checks the type of every value. Most of this depends only on the document. The compiler
does that part once, and the server executes the result for each request:

    query ($id: ID!) { task(taskId: $id) { status cost { total } } }

    task     read $id, check the permission, call the resolver, await it; null if it returns None; then, for the task:
      status   read the attribute `status`, look up the name of the enum member
      cost     call the resolver `Task.cost`; then, for its result:
        total    read the attribute `total`, serialize it as Credits

The terms are those of the GraphQL specification. CollectFields finds the fields that an operation selects from an
object type (`analysis`). ExecuteField returns the response value of one field of one object (`field_execution`). It
resolves the value (`resolvers`, with arguments from `input_coercion`) and completes it (`completion`, with
`output_types`). An **execution** is one run of an operation: its variables, context and errors (`execution_state`). A
**variant** is an operation compiled for given values of the variables in @skip and @include (`compiled_operation`).

Invariants
- A compiled operation returns the same as graphql-core's executor: data, errors, their order, paths and locations.
  Tests compare both for generated documents.
- It starts the same resolvers in the same order as graphql-core, so that data loaders batch the same keys. It awaits in
  the same places, so that errors have the same order: a single awaitable is awaited, several are gathered.
- Common cases have a fast path; rare cases call graphql-core's own functions (variables, arguments, infos, async
  iterators).
- An operation that the compiler does not support (`NotCompilable`) is executed by graphql-core and counted by reason.

The compiler neither parses nor validates documents, and does not mask errors.
"""
