"""How operations arrive and responses leave: HTTP, server-sent events, WebSocket. All execute by `engine.execution`."""
