"""The parts of the HTTP server that do not depend on GraphQL or credits.

`app.main` uses most of them, so they also work with `uvicorn app.main:app`: what the server exposes (`exposure`), the
host allow-list, security headers, body deadlines, health checks, logging and the request log. `request_deadline`,
`websocket_limits` and `single_write` extend uvicorn's protocol classes. Only `python -m app serve` uses these three.
"""
