"""Outgoing webhooks: deliver events of accounts to HTTP endpoints of the platform, by the Standard Webhooks
specification.

`app.ledger.account_events` stores an event in the same transaction as the change that it reports: one row of
`webhook_delivery` for each endpoint that wants it. `endpoints` manages endpoints and their secrets. `deliveries`
manages the rows. `sender` makes the requests. `worker` runs in every server process. Charges only insert rows, so a
slow receiver does not slow them down.

An event is delivered at least once. Endpoints with `in_order` receive the events of one account in their order.
"""
