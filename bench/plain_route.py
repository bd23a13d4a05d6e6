"""`python -m bench.plain_route`: a Starlette route that reads and writes JSON, as the lower bound of server CPU."""

import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp


async def respond(request: Request) -> JSONResponse:
    charge = (await request.json())["variables"]["input"]
    success = {"__typename": "ChargeSuccess", "cost": 1, "replayed": False}
    return JSONResponse({"data": {"charge": success, "blockRunId": charge["blockRunId"]}})


def serve(application: ASGIApp) -> None:
    """Serve on a free port, which is printed, with the uvicorn settings of `python -m app serve`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        print(f"Serving on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            application,
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            log_level="warning",
            access_log=False,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/route", respond, methods=["POST"])]))
