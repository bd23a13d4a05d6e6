"""`python -m bench.plain_route`: the least a Starlette application can do with a charge, as the floor of server CPU."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.serving import serve


async def answer(request: Request) -> JSONResponse:
    asked = (await request.json())["variables"]["input"]
    success = {"__typename": "ChargeSuccess", "cost": 1, "replayed": False}
    return JSONResponse({"data": {"charge": success, "blockRunId": asked["blockRunId"]}})


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/route", answer, methods=["POST"])]))
