"""HTTP server concerns that have nothing to do with GraphQL or credits.

`app.main` applies them, so `uvicorn app.main:app` has them as well: what the server exposes (`exposure`), the host
allow-list, security headers, body deadlines, health checks, logging and the request log. `request_deadline`,
`websocket_limits` and `single_write` extend uvicorn's protocol classes; only `python -m app serve` uses them.
"""
