"""How well the picker places real requests: hit rate, load balance and time to first token beside simpler policies.

    python benchmarks/router_policy.py [--traces DIR] [--sessions 80] [--json]

Replays the Mooncake conversation trace at 1, 3 and 6 times its rate (open loop) and Claude Code sessions (closed loop:
a turn comes its own pause after the last one's answer) on 8 replicas of llama-3.3-70b, four H200 chips each, through
each policy. An engine prefills in order, interleaves decode steps with chunks of 2,048 tokens, and keeps whole blocks
in order of last use; its speeds are those that the picker expects.

<trace>_<policy>_hit      prompt tokens that were in the cache when prefill began, of all
<trace>_<policy>_load     tokens (prompt and output) of the busiest replica over the mean
<trace>_<policy>_ttft_ms  mean time to the first token; _p90_ms the 90th percentile
hit_below_greedy          points of hit rate below greedy prefix, the worst of all traces (negative: better)
load                      max/mean load of the picker, the worst of all traces
pick_us_p50               one decision over 8 replicas as replayed, and <n> endpoints as built: pick_us_p50_<n>

Without traces, only the times of decisions are measured.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", _ROOT, *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from benchmarks import router_policy_traces as traces  # noqa: E402
from benchmarks.router_policy_engine import POLICIES, Outcome, replay  # noqa: E402

from tidefleet.routing.endpoints import Endpoint, Endpoints  # noqa: E402
from tidefleet.routing.index import Hits  # noqa: E402
from tidefleet.routing.pick import pick  # noqa: E402
from tidefleet.routing.rates import Rates, rates_of  # noqa: E402
from tidefleet.routing.request import Ask  # noqa: E402

SHARED = Path(os.environ.get("TIDEFLEET_SHARED", Path(_ROOT).resolve().parent / "shared"))
MOST_HIT_POINTS, MOST_LOAD = 0.02, 1.2
REPLICAS = 8


def decision_us(count: int, rates: Rates) -> float:
    """Median time of a pick over so many endpoints, all of which hold something, in two tiers."""
    rng = np.random.default_rng(0)
    table = Endpoints("bench")
    for place in range(count):
        address = f"10.0.{place // 250}.{place % 250}:8000"
        table.add(Endpoint(address, rates, slot=place, usd_per_second=0.002))
        table.begin(Ask("bench", "m", 1000), address, 0.0)
    held = np.sort(rng.integers(0, 1500, (4, count)), axis=0).astype(np.int32)
    held[1:] = held[1]
    ask, taken = Ask("bench", "m", 32_000, session=1, ttft_objective_seconds=5.0), []
    for _ in range(1000):
        begun = time.perf_counter()
        pick(ask, table, Hits(held), 0.1)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken)) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--traces", type=Path, default=SHARED / "traces", help="directory with the traces")
    parser.add_argument("--sessions", type=int, default=80, help="Claude Code sessions to replay")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    rates = rates_of(traces.replica())
    figures: dict[str, float] = {}
    for count in (10, 64, 1000):
        figures[f"pick_us_p50_{count}"] = decision_us(count, rates)
    worst_points, worst_load, picks = -1.0, 0.0, []
    for scenario in traces.scenarios(given.traces, given.sessions):
        outcomes: dict[str, Outcome] = {}
        for policy in POLICIES:
            found = outcomes[policy] = replay(scenario, policy, rates, replicas=REPLICAS)
            name = f"{scenario.name}_{policy}"
            figures[f"{name}_hit"] = found.hit
            figures[f"{name}_load"] = found.load
            figures[f"{name}_ttft_ms"] = found.ttft_mean * 1e3
            figures[f"{name}_p90_ms"] = found.ttft_p90 * 1e3
            if not given.json:
                print(
                    f"{name:40s} hit {found.hit:.3f} load {found.load:.2f} ttft {found.ttft_mean:.3f} s "
                    f"p90 {found.ttft_p90:.3f} tpot {found.tpot_mean * 1e3:.1f} ({found.seconds:.1f} s)",
                    flush=True,
                )
        worst_points = max(worst_points, outcomes["greedy"].hit - outcomes["pick"].hit)
        worst_load = max(worst_load, outcomes["pick"].load)
        picks += outcomes["pick"].pick_seconds
    if picks:
        figures["hit_below_greedy"] = worst_points
        figures["load"] = worst_load
        figures["pick_us_p50"] = float(np.median(picks)) * 1e6
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}, indent=None if given.json else 1))
    return 0 if not picks or (worst_points <= MOST_HIT_POINTS and worst_load <= MOST_LOAD) else 1


if __name__ == "__main__":
    sys.exit(main())
