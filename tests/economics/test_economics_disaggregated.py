"""Prefill and decode on replicas of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from economics_builders import a_replica, an_accelerator

from tidefleet.economics.disaggregated import Disaggregated, pair, transfer_seconds
from tidefleet.economics.memory import kv_bytes
from tidefleet.economics.serving import CannotServe, Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape

CHAT = TokenShape(1000, 250)
LINKED = replace(an_accelerator(), scale_out_bytes_per_second=50e9)


def paired(*objectives: Objective, shape: TokenShape = CHAT) -> Disaggregated:
    found = pair(a_replica(accelerator=LINKED), a_replica(accelerator=LINKED), shape, objectives)
    assert isinstance(found, Disaggregated), found
    return found


def test_the_kv_cache_travels_at_the_pace_of_the_slower_link() -> None:
    slow = replace(LINKED, scale_out_bytes_per_second=10e9)
    sender, receiver = a_replica(accelerator=LINKED), a_replica(accelerator=slow)
    sent = kv_bytes(sender.model, "Bf16", 1, 1000)
    assert transfer_seconds(sender, receiver, 1000) == pytest.approx(sent / 10e9)
    dark = a_replica(accelerator=replace(LINKED, scale_out_bytes_per_second=0.0, scale_up_bytes_per_second=0.0))
    assert transfer_seconds(sender, dark, 1000) is None
    assert isinstance(pair(dark, receiver, CHAT), CannotServe)


def test_the_first_token_waits_for_prefill_transfer_and_a_step() -> None:
    found = paired(Objective("TTFT", 1.5), Objective("TPOT", 0.05))
    assert found.ttft_seconds == pytest.approx(
        found.prefill.ttft_seconds + found.transfer_seconds + found.decode.decode_seconds
    )
    assert found.ttft_seconds <= 1.5
    assert found.decode.tpot_seconds <= 0.05


@pytest.mark.parametrize("seconds", [0.5, 0.8, 1.5, 6.0])
def test_the_first_token_is_in_time_whatever_batch_decode_has(seconds: float) -> None:
    found = pair(a_replica(accelerator=LINKED), a_replica(accelerator=LINKED), CHAT, [Objective("TTFT", seconds)])
    assert isinstance(found, Disaggregated), found  # without a TPOT objective the decode step is as long as it gets
    assert found.ttft_seconds <= seconds * (1 + 1e-9)


def test_both_sides_are_equally_loaded() -> None:
    found = paired(Objective("TPOT", 0.05))
    assert found.prefill_per_decode * found.prefill.requests_per_second == pytest.approx(
        found.decode.requests_per_second
    )


def test_a_turn_leaves_decode_what_the_first_token_did_not_take() -> None:
    found = paired(Objective("Turn", 12.0))
    assert found.ttft_seconds + 250 * found.decode.tpot_seconds <= 12.0 * (1 + 1e-9)
    hurried = pair(a_replica(accelerator=LINKED), a_replica(accelerator=LINKED), CHAT, [Objective("Turn", 1.0)])
    assert isinstance(hurried, CannotServe)


def test_decode_alone_keeps_a_tight_pace_at_a_larger_batch_than_together_with_prompts() -> None:
    asked = (Objective("TPOT", 0.035),)
    together = estimate(a_replica(accelerator=LINKED), CHAT, asked)
    assert isinstance(together, Estimate)
    assert paired(*asked).decode.batch > together.batch
