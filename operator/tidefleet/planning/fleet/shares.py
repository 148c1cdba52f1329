"""How a solve deals out its time: shares of what is left."""

from __future__ import annotations

POOLS = 0.8
"""Share of the time for the pools; the rest is for the whole, which needs little where no shared limit has a price."""

UNPRICED = 0.95
"""The same for a large fleet in which no shared limit has a price."""

TURN = 0.25
"""Share of the time left for one turn."""

FIRST = 0.45
"""The same for the first turn of a large fleet, whose other turns are few."""

SMALL = 0.75
"""The same for any turn of a small one, which seldom needs it."""

PROOF = 0.92
"""The same once there is a good plan: what is missing then is most likely its proof, and half of one is none."""

ANEW = 0.3
"""Share of the whole time that has to be left for a turn at wrong prices to be given up, and its bound with it."""

FIT = 0.6
"""Share of the time left below which the plans of a small fleet's first turn are made to fit at once; plans at better
prices fit better."""

NEAR = 0.28
"""Share of the time left after a turn in which plans near the pools' are sought."""

LARGE_NEAR = 0.15
"""The same for a large fleet."""

FAR = 0.6
"""The same for a small fleet without a good plan, where nothing is more urgent."""

CHOICE = 0.1
"""Share of the time left for one choice of a plan per pool."""

CHOICE_FAR = 0.2
"""The same where no good plan is known."""

AGAIN = 0.85
"""Share of the time left in which a large fleet's pools are solved further at the same prices."""

AROUND = 0.7
"""Share of the time left in which a small fleet's plan is made better a few pools at a time; for a large one, all."""
