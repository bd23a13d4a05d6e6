"""How operations come and answers go: HTTP, event streams, WebSockets. All of them are carried out by `execution`."""
