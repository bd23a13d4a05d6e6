"""The transports of operations and responses: HTTP, server-sent events, WebSocket.

All of them execute operations with `engine.execution`.
"""
