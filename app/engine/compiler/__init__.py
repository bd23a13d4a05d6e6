"""Compiled documents: a parsed and validated operation becomes a plan of closures, and the plan is run.

graphql-core's executor walks the document anew for each request: it collects the fields of every object, looks each up
in the schema, builds an info and a path for it, and asks of every value what its type says. Nothing of that depends on
the request. A plan has it answered once:

    query ($id: ID!) { task(taskId: $id) { status cost { total } } }

becomes, read from the inside out,

    total   take the attribute `total`, write it as a Credits              a **step**: run, source, path -> value
    cost    call `Task.cost`, then run [total] over what it gave           a step, and a **completion**: value -> JSON
    status  take the attribute `status`, look up its name in TaskStatus
    task    read $id, check the need, call `TaskQueries.task`, await it, null if None, else run [status, cost]

Words: a **place** is a field where the document asks for it (`places`). A **step** answers one place for one object
(`steps`, on the calls of `resolving`). A **completion** turns what a resolver gave into JSON (`completing`, on the
scalars and enums of `leaves` and the unions and interfaces of `kinds`). A **run** is one execution: its variables, its
errors, its context (`running`). A **variant** is what a document comes to for given values of the variables in its
@skip and @include (`plan`).

Invariants
- A plan answers what graphql-core's executor answers: data, errors, their order, paths and locations. The tests
  compare both over generated documents.
- It waits where the executor waits, and starts what the executor starts, in the same order: resolvers of one list meet
  in one data loader, and errors come in the same order. So one awaitable is awaited, and several are gathered.
- What is common is short, what is rare is graphql-core's: variables, arguments, infos and async iterators that a plan
  has no short way for are handed to graphql-core's own functions.
- What a plan does not fully understand (`analysing`) is executed by the ordinary executor, and counted with its reason.

What this package does not do: it parses and validates nothing, masks nothing, and knows nothing of credits.
"""
