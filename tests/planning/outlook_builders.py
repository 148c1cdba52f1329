"""Books for tests: speeds are stated, so that every figure follows from the book."""

import copy
import datetime
from functools import cache

from tidefleet import catalogue
from tidefleet.planning.outlook.book import parse_book
from tidefleet.planning.outlook.pricing import Facts

HOURS = 730.0
SPEED = 1e7
LOAD = 0.5
RENT = 2.0
TOKENS = 7.3e9
"""A month of one chip-hour for every 5e6 tokens: 2 chips."""

BASE = {
    "name": "test",
    "discountPerYear": 0.1,
    "knownFromMonth": 3,
    "accelerators": [
        {
            "name": "chip",
            "rent": {"usdPerChipHour": RENT},
            "priceDeclinePerYear": 0.0,
            "chipsPerOrder": 0,
            "speeds": [{"pool": "chat", "tokensPerChipHour": SPEED}],
        }
    ],
    "pools": [{"name": "chat", "utilisation": LOAD}],
    "classes": [
        {
            "name": "people",
            "pool": "chat",
            "users": 1000,
            "tokensPerUserMonth": TOKENS / 1000,
            "inputTokens": 800,
            "outputTokens": 200,
            "cachedShare": 0.25,
            "revenue": {"usage": {"usdPerMillionInputTokens": 0.5, "usdPerMillionOutputTokens": 2.0}},
        }
    ],
}


@cache
def facts():
    return Facts(catalogue.accelerator_types(), catalogue.models(), datetime.date(2026, 11, 26))


def raw_book(**changes):
    """The base with changes; ``classes__0__users`` goes by fields and places. ``None`` takes a field out."""
    raw = copy.deepcopy(BASE)
    for path, value in changes.items():
        at, steps = raw, path.split("__")
        for step in steps[:-1]:
            at = at[int(step)] if step.isdigit() else at[step]
        last = int(steps[-1]) if steps[-1].isdigit() else steps[-1]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return raw


def a_book(months=36, **changes):
    known = facts()
    return parse_book(raw_book(**changes), accelerators=known.kinds, models=known.models, months=months)
