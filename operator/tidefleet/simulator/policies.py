"""Every policy by its name; ``pick`` is the router's own."""

from __future__ import annotations

from collections.abc import Mapping

from tidefleet.simulator.peers import PEERS
from tidefleet.simulator.policy import BASIC, Policy

POLICIES: Mapping[str, type[Policy]] = {one.name: one for one in (*BASIC, *PEERS)}
