"""The GraphQL API: the types, queries, mutations and subscriptions of each domain.

The API converts between GraphQL and the domain packages. It contains no business rules and writes no row.

- `schema` joins the parts; `context` has the state that all requests share.
- `accounts`, `tasks` and `topups` have several modules each; `prices`, `notifications` and `audit_log` have one.
- `error_types` derives the types of expected errors from the `BillingError` classes; `results` adds them to the result
  unions of mutations.
- `owner_scope` decides which accounts a caller may read and change.
- `objects` builds GraphQL objects from rows by field name. So a value that is only passed on is declared in the row
  and in the GraphQL type, and nowhere else.

Invariants
- Every field has a permission and every part of the schema has a description; otherwise the schema is not built.
- An object that the caller may not read is reported like one that does not exist. The same SQL statements find both.
- Expected errors are members of result unions. Everything else is a top-level error with `extensions.code`.
"""
