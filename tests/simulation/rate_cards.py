"""The default rate card as the API returns it, and a small one with every kind of price."""

import json
from pathlib import Path
from typing import Any

import app.pricing
from examples.simulation.rate_card import Block, RateCard, Rule

DEFAULT: Any = json.loads((Path(app.pricing.__file__).parent / "default_rate_card.json").read_text())

SMALL = RateCard(
    7,
    {
        "Model": Block("Model", (), priced_by_model=True),
        "Flat": Block("Flat", (Rule({}, 4),)),
        "Deep": Block(
            "Deep",
            (
                Rule({}, 1),
                Rule({"size": "large"}, 2),
                Rule({"size": "large", "video": {"sound": True}}, 9),
                Rule({"video": {"sound": False, "frames": 1}}, 5),
            ),
        ),
        "Timed": Block("Timed", (Rule({}, 1, "SECOND", 10),)),
        "Money": Block("Money", (Rule({}, 150, "USD"),)),
    },
    {"a": 3, "b": 11},
)


def default_card() -> RateCard:
    """Built from the file, with the defaults that the API spells out."""
    blocks = [
        {
            "block": found["block"],
            "pricedByModel": False,
            "rules": [
                {"when": rule.get("when"), "credits": rule["credits"], "unit": "RUN", "per": 1}
                for rule in found.get("rules", [found])
            ],
        }
        for found in DEFAULT["blocks"]
    ]
    blocks += [{"block": name, "pricedByModel": True, "rules": []} for name in DEFAULT["model_priced_blocks"]]
    return RateCard.from_response({"version": 1, "blocks": blocks, "models": DEFAULT["models"]})
