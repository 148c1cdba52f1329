"""Scenarios and requests that tests of `tidefleet simulate` share."""

from __future__ import annotations

from typing import Any

from tidefleet.simulator.result import Outcome
from tidefleet.simulator.run import Request
from tidefleet.simulator.scenario import Scenario

STUDY = """
name: tiers
summary: One tier.
kind: study
study: kv-or-prefill
pools:
  - model: llama-3.1-8b
    accelerator: h100-sxm
    replicas: 1
    chipsPerReplica: 1
    tiers:
      - {medium: host, tokens: 1000000, bytesPerSecond: 50e9}
"""

FLEET = """
name: small
kind: fleet
seconds: 86400
pools:
  - model: llama-3.3-70b
    accelerator: h200-sxm
    replicas: 8
classes:
  - name: chat
    source: mooncake-conversation
    shape: chat
    share: 1.0
    objective: {ttftSeconds: 0.8, tpotSeconds: 0.05}
"""


def a_study(**fields: Any) -> Scenario:
    """The scenario of ``STUDY``."""
    import yaml

    return Scenario.model_validate({**yaml.safe_load(STUDY), **fields})


def a_request(*, seeds: tuple[int, ...] = (1,), policies: tuple[str, ...] = (), full: bool = False) -> Request:
    """A request for the study, or for a scenario of another kind with ``policies``."""
    return Request(a_study(), None, seeds, policies, full)


def an_outcome(seed: int = 1, **fields: Any) -> Outcome:
    """An outcome with a bit of everything; its numbers differ by seed."""
    return Outcome(
        **{
            "utilization": 0.90 + 0.01 * seed,
            "utilization_without_loans": 0.48,
            "utilization_lost": {"spare": 0.05, "outbound": 0.05 - 0.01 * seed},
            "slo_attainment": {"chat": 0.995, "overall": 0.995},
            "prefix_hit_ratio": 0.4,
            "load_max_over_mean": 1.2,
            "usd_per_million_tokens": 0.31,
            "usd_by_class": {"chat": 0.31},
            "usd_by_accelerator": {"h200-sxm": 0.31},
            "ttft_seconds": {"chat": {"p50": 0.2, "p90": 0.4, "p95": 0.5, "p99": 1.1, "mean": 0.25}},
            "tpot_seconds": {"chat": {"p50": 0.02, "p90": 0.03, "p95": 0.03, "p99": 0.04, "mean": 0.02}},
            "ribbon": {
                "begin": 0.0,
                "seconds": 3600.0,
                "serving": [6.0] * 12 + [8.0] * 36,
                "training": [2.0] * 12 + [0.0] * 36,
                "needed": [5.0] * 12 + [7.0] * 36,
            },
            "figures": {"things_seconds": 3.0 * seed},
            "words": ("A <sentence> & more.",),
            **fields,
        }
    )
