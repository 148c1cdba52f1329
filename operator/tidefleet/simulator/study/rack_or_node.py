"""A mixture of experts spread over chips of one scale-up domain, over nodes of the same chips, and inside one node.

Everything but the link is the same: chip, model, precision and lengths. In a rack the group's dispatch and combine go
over the scale-up link; across nodes over the network, since the group is wider than a node's domain; inside a node over
the scale-up link again, but the group is small, so each chip holds more of the experts, reads more weights a step and
has less room for KV. The gain of the rack is over the better of the other two.
"""

from __future__ import annotations

from dataclasses import replace

from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.simulator.catalogued import chip_of, replica_of
from tidefleet.simulator.scenario import Scenario
from tidefleet.simulator.study.finding import BadSetting, Finding, pool_of, settings_of

DEFAULTS = {"inputTokens": 4096.0, "outputTokens": 1024.0, "groupChips": 64.0, "nodeChips": 8.0}

TPOT_MILLISECONDS = (100, 50, 30, 20, 15, 12)
"""Promises of the time between tokens, from slow to fast."""


def decode_tokens_per_chip(base: Replica, chip: Accelerator, group: int, shape: TokenShape, tpot: float) -> float:
    """Output tokens/s a chip of a decode replica whose experts are spread over ``group`` chips; 0 if it cannot."""
    replica = replace(base, accelerator=chip, chips=group, tensor_parallel=1, expert_parallel=group)
    found = estimate(replica, shape, (Objective("TPOT", tpot),), role="Decode")
    return found.output_tokens_per_second / group if isinstance(found, Estimate) else 0.0


def study(scenario: Scenario) -> Finding:
    """Tokens a second and chip of the three, and the gain of the rack, by promise.

    Raises:
        BadSetting: the pool's model has no experts, or the group does not fit the chip's domain.
    """
    values = settings_of(scenario, DEFAULTS)
    pool = pool_of(scenario)
    base, chip = replica_of(pool), chip_of(pool.accelerator)
    group, node = int(values["groupChips"]), int(values["nodeChips"])
    if not base.model.is_moe or not chip.scale_out_bytes_per_second:
        raise BadSetting(
            f"scenario {scenario.name}: pools[0] is {pool.model} on {pool.accelerator}; expected a mixture of experts "
            "on a type whose network is known, e.g. deepseek-r1 on gb200-nvl72"
        )
    if not 1 < node < group <= chip.scale_up_domain:
        raise BadSetting(
            f"scenario {scenario.name}: settings.nodeChips {node} and groupChips {group}; expected "
            f"1 < nodeChips < groupChips <= {chip.scale_up_domain}, the domain of {pool.accelerator}, e.g. 8 and 64"
        )
    shape = TokenShape(values["inputTokens"], max(1.0, values["outputTokens"]))
    apart = replace(chip, scale_up_domain=node)
    figures: dict[str, float] = {}
    gains: dict[int, float] = {}
    for milliseconds in TPOT_MILLISECONDS:
        tpot = milliseconds / 1e3
        rates = {
            "rack": decode_tokens_per_chip(base, chip, group, shape, tpot),
            "across_nodes": decode_tokens_per_chip(base, apart, group, shape, tpot),
            "in_node": decode_tokens_per_chip(base, apart, node, shape, tpot),
        }
        figures |= {f"tokens_per_second_per_chip_{name}_{milliseconds}_ms": one for name, one in rates.items()}
        other = max(rates["across_nodes"], rates["in_node"])
        if other > 0.0:
            gains[milliseconds] = figures[f"rack_gain_{milliseconds}_ms"] = rates["rack"] / other
    if not gains:
        raise BadSetting(f"scenario {scenario.name}: {pool.model} on {pool.accelerator} cannot decode at any promise")
    best = max(gains, key=lambda one: gains[one])
    least = min(gains, key=lambda one: gains[one])
    words = (
        f"{pool.model} ({pool.weights}) on {pool.accelerator}: decode, {shape.input_mean:g} prompt and "
        f"{shape.output_mean:g} output tokens, experts over {group} chips against {group} chips in nodes of {node}, "
        f"and against {node} chips",
        f"the rack gains {gains[best]:.1f}x at {best} ms between tokens, its most, and {gains[least]:.1f}x at "
        f"{least} ms, its least; against the better of the other two",
        f"links one way, per chip: {chip.scale_up_bytes_per_second / 1e9:g} GB/s in the domain, "
        f"{chip.scale_out_bytes_per_second / 1e9:g} GB/s across nodes",
    )
    return Finding(figures, words)
