"""How fast requests are simulated through the real picker, and peers' published tables beside ours.

    python benchmarks/simulator.py [--traces DIR] [--only speed,dynamo,llmd] [--json]

requests_per_second_<n>x   of CPU time, 64 replicas of llama-3.3-70b, the conversation trace n times over, policy pick
                           (round_robin_...: the same without a picker)
dynamo_<trace>_<policy>_ms mean time to the first token on Dynamo's own mock workers; <trace>: conversation_x3 on 4
                           workers, conversation_x6 on 5, synthetic_x3 on 4 (the published text names neither; these
                           come nearest to its round-robin figures). The traces hold 60 % of the published
                           conversations, so their rate is raised by 1/0.6. ..._published_ms beside them.
llmd_<policy>_...          output tokens/s and 90th percentile of the time to the first token on llm-d's shared-prefix
                           workload, with what was published; engine times are set by its rows random and precise
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
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

from tidefleet.simulator.cluster import Cluster  # noqa: E402
from tidefleet.simulator.driving import Driver  # noqa: E402
from tidefleet.simulator.load import load_scenario  # noqa: E402
from tidefleet.simulator.replay import run_replay, sessions_of  # noqa: E402
from tidefleet.simulator.workload import load  # noqa: E402
from tidefleet.simulator.workload.bodies import Templates  # noqa: E402

SHARED = Path(os.environ.get("TIDEFLEET_SHARED", Path(_ROOT).resolve().parent / "shared"))
REPLICAS, SPEED = 64, 30.0
DYNAMO = {
    "conversation_x3": (["speed=5"], (393.0, 369.0, 305.0)),
    "conversation_x6": (["speed=10", "pools.0.replicas=5"], (4102.0, 541.0, 436.0)),
    "synthetic_x3": (["speed=5", "classes.0.source=mooncake-synthetic"], (444.0, 219.0, 191.0)),
}
"""Changes of the scenario, and the published means with round-robin, default and tuned weights, ms."""
LLMD = {"random": (4429.0, 92.55), "llmd_approximate": (6944.0, 31.08), "llmd_precise": (8730.0, 0.54)}
"""Published output tokens/s and 90th percentile of the time to the first token, s."""


def speed(traces: Path) -> dict[str, float]:
    """Requests a second of CPU time, with once, twice and four times the requests."""
    scenario = load_scenario("mooncake-conversation")
    pool = scenario.pools[0].model_copy(update={"replicas": REPLICAS})
    source = load(scenario, traces, seed=0).stream("conversation").source
    if not isinstance(source, Templates):
        raise TypeError("the conversation trace has no requests of its own to replay")
    once = sessions_of(source, scenario.classes[0], SPEED)
    length = max(one.begins for one in once) + 60.0
    figures = {}
    for policy in ("pick", "round_robin"):
        for times in (1, 2, 4):
            sessions = [
                replace(one, begins=one.begins + turn * length, number=one.number + turn * len(once))
                for turn in range(times)
                for one in once
            ]
            cluster = Cluster(pool, scenario.classes, policy=policy, answers_kept=False)
            for number in range(REPLICAS):
                cluster.add(number)
            driver = Driver(cluster, sessions)
            begun = time.process_time()
            driver.run()
            name = "requests_per_second" if policy == "pick" else f"{policy}_requests_per_second"
            figures[f"{name}_{times}x"] = len(driver.jobs) / (time.process_time() - begun)
    return figures


def dynamo(traces: Path) -> dict[str, float]:
    """Its replay table."""
    figures = {}
    for name, (changes, published) in DYNAMO.items():
        scenario = load_scenario("dynamo-replay", changes)
        workload = load(scenario, traces, seed=0)
        for policy in ("round_robin", "dynamo", "dynamo_tuned", "pick"):
            found = run_replay(scenario, workload, seed=0, policy=policy)
            figures[f"dynamo_{name}_{policy}_ms"] = found.figures["ttft_mean_ms"]
        for policy, value in zip(("round_robin", "dynamo", "dynamo_tuned"), published, strict=True):
            figures[f"dynamo_{name}_{policy}_published_ms"] = value
    return figures


def llmd(traces: Path) -> dict[str, float]:
    """Its table of the shared-prefix workload."""
    scenario = load_scenario("llmd-b2b")
    workload = load(scenario, traces, seed=0)
    figures = {}
    for policy in (*LLMD, "pick"):
        found = run_replay(scenario, workload, seed=0, policy=policy)
        figures[f"llmd_{policy}_output_tokens_per_second"] = found.figures["output_tokens_per_second"]
        figures[f"llmd_{policy}_ttft_p90_seconds"] = found.figures["ttft_p90_seconds"]
        if policy in LLMD:
            tokens, ttft = LLMD[policy]
            figures[f"llmd_{policy}_published_output_tokens_per_second"] = tokens
            figures[f"llmd_{policy}_published_ttft_p90_seconds"] = ttft
    return figures


PARTS = {"speed": speed, "dynamo": dynamo, "llmd": llmd}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--traces", type=Path, default=SHARED / "traces", help="directory with the traces")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    figures: dict[str, float] = {}
    for name in given.only.split(","):
        if name not in PARTS:
            parser.error(f"--only is {name!r}; expected some of {', '.join(PARTS)}")
        figures.update(PARTS[name](given.traces))
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}, indent=None if given.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
