"""The transports of operations and responses: HTTP, server-sent events, WebSocket.

`engine.execution` executes for all.
"""
