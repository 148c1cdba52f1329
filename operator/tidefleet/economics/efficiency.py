"""What of the peaks an engine reaches, and its fixed costs: the starting values where nothing has been measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Share of each peak that an engine reaches, and its fixed costs.

    The defaults are round values for any hardware: no measurement stands behind them. ``starting_values`` has measured
    ones for the hardware generations that public measurements cover.

    Attributes:
        compute: eta_f, of peak FLOP/s in dense linear layers.
        memory: eta_m, of HBM bandwidth in dense linear layers.
        network: eta_n, of link bandwidth.
        layer_seconds: t_l, launch and synchronisation time per layer.
        hop_seconds: alpha, latency of one communication step.
        overlap: w in 0..1, share of communication hidden behind compute while halves of a batch take turns.
        imbalance: work of the busiest chip of an expert group over the mean, >= 1; few tokens are spread less evenly
            still, by chance.
        rank_imbalance: work of the busiest attention rank over the mean, >= 1: ranks wait for each other at each
            exchange of tokens with experts, and their prompts and contexts are not alike.
        expert_compute: eta_f of grouped expert GEMMs; 0 = like ``compute``.
        expert_memory: eta_m of expert weights; 0 = like ``memory``.
        attention_compute: eta_f of attention; 0 = like ``compute``.
        attention_memory: eta_m of KV reads; 0 = like ``memory``.
        expert_padding: tokens by which a touched expert's share is padded on average, half a GEMM tile.
        moe_layer_seconds: further time per layer with routed experts (routing, permutation).
        latent_layer_seconds: further time per layer with latent attention, which has more small kernels than grouped
            queries: projections down to the latents and up again, their norms, a product of every head with the latent.
        step_seconds: time of a step outside its layers (scheduling, sampling), by engine.
        sequence_seconds: the same for each sequence of the batch.
        bulk_seconds: further latency of the bandwidth-optimal all-reduce that large messages take.
        verify_seconds: further time of a step for each sequence whose drafted tokens it verifies.
    """

    compute: float = 0.55
    memory: float = 0.75
    network: float = 0.5
    layer_seconds: float = 20e-6
    hop_seconds: float = 8e-6
    overlap: float = 0.0
    imbalance: float = 1.0
    rank_imbalance: float = 1.0
    expert_compute: float = 0.0
    expert_memory: float = 0.0
    attention_compute: float = 0.0
    attention_memory: float = 0.0
    expert_padding: float = 0.0
    moe_layer_seconds: float = 0.0
    latent_layer_seconds: float = 0.0
    step_seconds: float = 0.0
    sequence_seconds: float = 0.0
    bulk_seconds: float = 0.0
    verify_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StartingValues:
    """The efficiency to assume, where it comes from, and how far it is off.

    Attributes:
        provenance: ``Fitted``: to public measurements of this hardware generation; ``Uncalibrated``: assumed, no
            measurement of this generation stands behind it.
        sigma: relative one-sigma error of TPOT estimated with it.
        source: for people.
    """

    efficiency: Efficiency
    provenance: str
    sigma: float
    source: str


_SAMPLE = "aiconfigurator-core 0.12.0, silicon_sample.csv (Apache-2.0): 1,745 aggregated runs"

# Fitted by benchmarks/economics_fit.py to the measured times between tokens of those runs (H100, H200, B200, B300,
# GB200; vLLM, SGLang, TensorRT-LLM; three dense and three MoE models), one value for all models: to how times depend on
# batch, lengths and width, groups of one model, accelerator, engine and precision each at a level of its own.
# Few parameters, so each also stands for what the others leave out: ``layer_seconds`` is all small kernels of a layer,
# and the share of the peak that expert GEMMs reach is that of serving with prompts of 128 to 8,192 tokens, far from a
# large GEMM's.
_FITTED = Efficiency(
    memory=0.823,
    network=0.80,
    layer_seconds=44.1e-6,
    hop_seconds=2.57e-6,
    imbalance=1.1,
    expert_memory=0.95,
    attention_compute=0.68,
    attention_memory=0.78,
    expert_padding=12.9,
    moe_layer_seconds=12.4e-6,
    latent_layer_seconds=35.6e-6,
    step_seconds=6.71e-4,
    sequence_seconds=8e-6,
    bulk_seconds=55e-6,
)
_DENSE_COMPUTE: Mapping[str, float] = {"Bf16": 0.672, "Fp8": 0.524, "Fp4": 0.403}
_EXPERT_COMPUTE: Mapping[str, float] = {"Bf16": 0.225, "Fp8": 0.151, "Fp4": 0.116}
_WIDE_EXPERT_COMPUTE: Mapping[str, float] = {"Bf16": 0.5, "Fp8": 0.5, "Fp4": 0.116}
"""By precision of the arithmetic. The network's share is assumed, not fitted: the runs cannot tell it apart from the
other costs of an all-reduce. So is expert imbalance in expert-parallel groups: about what DeepSeek's load balancer
(EPLB) leaves between the busiest chip and the mean. Latent attention is in one model of the sample (DeepSeek-R1).

The wide values hold for experts spread over more chips than a node has: such groups run on kernels made for whole
experts with many tokens each (DeepGEMM), which no run of the sample does. Set, not fitted, to what DeepSeek's decode
pool needs to reach its published 14,800 tokens/s per node of eight H800 (open-infra-index, day 6)."""

_WIDE_OVERLAP = 0.5
"""Share of communication that such groups hide where it crosses the network between nodes, when two halves of a batch
take turns. Inside one scale-up domain that is not done (SGLang on GB200 NVL72, 2025-06-16). Set to seven published
rates of 32 to 128 H100 and H800 (SGLang's reproduction of DeepSeek's serving, 2025-05-05: prefill of 1, 2 and 4
thousand tokens, decode twice; DeepSeek's own profile as quoted there, prefill and decode), met within 15 %."""

_RANK_IMBALANCE = 1.2
"""Work of the busiest attention rank over the mean where nothing balances them: fitted to 61 rates of TensorRT-LLM's
performance overview (@03e27c7; two to eight ranks), whose mean error it lowers from 28 to 19 %, and held against 96
runs of 4 to 1,024 requests in the sample that were not fitted to (12.7 to 11.9 %). Wide groups balance their ranks."""

_STEP_SECONDS: Mapping[str, float] = {"vllm": 6.71e-4, "sglang": 9.64e-4, "trtllm": 0.934e-4}
_VERIFY_SECONDS: Mapping[str, float] = {"vllm": 30e-6, "sglang": 66.2e-6, "trtllm": 27.9e-6}
"""By engine; vLLM's is assumed, no run of it in the sample drafts. SGLang's verifies on the host between steps."""

_OLDER: Mapping[str, float] = {"vllm": 1.14, "sglang": 1.15, "trtllm": 1.13}
"""Time of a model with experts on an older release (``economics.releases``) over that on a recent one, by engine. The
runs hold both of gpt-oss-120b with vLLM and TensorRT-LLM and of DeepSeek-R1 with SGLang and TensorRT-LLM; of no model
without experts."""

_BLACKWELL_MEMORY = 0.99
"""What Blackwell reaches of its bandwidth over what Hopper reaches of its own."""

_FOUR_BIT_MEMORY = 0.697
"""What dense layers in 4 bits reach of the bandwidth that wider ones do: each unpacks block scales, and its activations
are quantised first."""

_BLACKWELL_LAYERS = 0.86
"""Time of a layer's small kernels on Blackwell over that on Hopper."""

_BLACKWELL_FP8, _BLACKWELL_EXPERT_FP8 = 0.882, 0.498
"""What dense layers and routed experts in FP8 reach on Blackwell of its peak over what they reach on Hopper of its own:
the peak is 2.3 times as high, and the kernels for blocks of scales were written for Hopper (DeepSeek-R1 in FP8)."""

_PER_LAYER = ("layer_seconds", "moe_layer_seconds", "latent_layer_seconds")

_HOPPER = ("h100", "h200", "h800", "h20", "gh200")
_BLACKWELL = ("b200", "b300", "gb200", "gb300")

_CDNA: Mapping[str, tuple[float, float]] = {
    "mi300x": (0.60, 1.6),
    "mi325x": (0.75, 1.85),
    "mi355x": (0.80, 1.9),
}
"""Shares of the peaks and fixed costs of AMD's accelerators relative to Hopper's. Set to 19 figures that InferenceX
published (InferenceMAX, 2025-10: gpt-oss-120b at 90 tokens/s a user; its comparisons of 2026-04: times between tokens
of gpt-oss-120b, Llama 3.3 70B and DeepSeek-R1 with vLLM and SGLang), with which they agree within 13 % on the mean. Two
numbers for some six figures each, so they count as uncalibrated."""

_SIGMA: Mapping[tuple[str, bool], float] = {
    ("Fitted", False): 0.23,
    ("Fitted", True): 0.24,
    ("Uncalibrated", False): 0.35,
    ("Uncalibrated", True): 0.45,
}
"""Relative errors by provenance and whether the model has experts: 1.25 times a mean error, as for a normal one.

Fitted: over runs of whole models left out of the fit (14.1 % mean error for dense models, 14.7 % for MoE:
benchmarks/economics.py --left-out) and 460 runs of vLLM that the fit has not seen (31 and 37 %, most of them slower
than the model says: benchmarks/economics_energy.py), together 18.0 and 18.9 %. Others: over accelerators left out
(13.9 and 14.9 %) instead of models, 17.9 and 19.1 % together, and far more for hardware that is further away."""


def generation_of(accelerator: str) -> str:
    """The hardware generation of a catalogue name as far as measurements tell them apart; empty = none measured."""
    family = accelerator.split("-", 1)[0].lower()
    return "Hopper" if family in _HOPPER else "Blackwell" if family in _BLACKWELL else ""


def has_wide_kernels(accelerator: str) -> bool:
    """Whether kernels made for experts over many nodes run on this type (DeepEP, DeepGEMM: NVIDIA's from Hopper on)."""
    return accelerator.split("-", 1)[0].lower() in (*_HOPPER, *_BLACKWELL, "rubin")


def slower(efficiency: Efficiency, share: float, cost: float) -> Efficiency:
    """The same with every share of a peak and every fixed time multiplied."""
    shares = ("compute", "memory", "expert_compute", "expert_memory", "attention_compute", "attention_memory")
    changes = {name: share * getattr(efficiency, name) for name in shares}
    costs = (*_PER_LAYER, "step_seconds", "sequence_seconds", "verify_seconds", "hop_seconds", "bulk_seconds")
    return replace(efficiency, **changes, **{name: cost * getattr(efficiency, name) for name in costs})


@cache
def starting_values(
    accelerator: str,
    precision: str,
    *,
    engine: str = "",
    dense_precision: str = "",
    experts: bool = False,
    wide: bool = False,
    ranks: bool = False,
    crosses: bool = False,
    older: bool = False,
) -> StartingValues:
    """The efficiency to start from.

    Args:
        accelerator: catalogue name, e.g. ``h200-sxm``.
        precision: of the arithmetic of linear layers, or of the experts where only these are quantised.
        dense_precision: of the layers outside the experts; empty = the same.
        engine: ``vllm``, ``sglang`` or ``trtllm``; anything else is taken as vLLM.
        experts: whether the model has routed experts; sets the error, and whether an older release tells.
        wide: whether experts are spread over more chips than a node has, on kernels made for that.
        ranks: whether several attention ranks go on together.
        crosses: whether experts are spread over more chips than one scale-up domain has.
        older: whether the engine's release is older than those that the values are fitted to; tells with experts only.
    """
    generation = generation_of(accelerator)
    blackwell = generation == "Blackwell"
    bandwidth, launch = (_BLACKWELL_MEMORY, _BLACKWELL_LAYERS) if blackwell else (1.0, 1.0)
    dense = dense_precision or precision
    of_dense = _BLACKWELL_FP8 if blackwell and dense == "Fp8" else 1.0
    of_experts = _BLACKWELL_EXPERT_FP8 if blackwell and precision == "Fp8" and not wide else 1.0
    expert_compute = _WIDE_EXPERT_COMPUTE if wide else _EXPERT_COMPUTE
    efficiency = replace(
        _FITTED,
        compute=_DENSE_COMPUTE.get(dense, _DENSE_COMPUTE["Fp8"]) * of_dense,
        expert_compute=expert_compute.get(precision, expert_compute["Fp8"]) * of_experts,
        memory=_FITTED.memory * bandwidth * (_FOUR_BIT_MEMORY if dense == "Fp4" else 1.0),
        expert_memory=_FITTED.expert_memory * bandwidth,
        attention_memory=_FITTED.attention_memory * bandwidth,
        step_seconds=_STEP_SECONDS.get(engine.lower(), _STEP_SECONDS["vllm"]),
        verify_seconds=_VERIFY_SECONDS.get(engine.lower(), _VERIFY_SECONDS["vllm"]),
        rank_imbalance=_RANK_IMBALANCE if ranks and not wide else 1.0,
        overlap=_WIDE_OVERLAP if wide and crosses else 0.0,
        **{name: launch * getattr(_FITTED, name) for name in _PER_LAYER},
    )
    family = accelerator.split("-", 1)[0].lower()
    if family in _CDNA:
        efficiency = slower(efficiency, *_CDNA[family])
    if older and experts and (factor := _OLDER.get(engine.lower())):
        efficiency = slower(efficiency, 1.0 / factor, factor)
    provenance = "Fitted" if generation else "Uncalibrated"
    source = f"{_SAMPLE}, {generation}" if generation else f"assumed to be like Hopper ({_SAMPLE})"
    if family in _CDNA:
        source = "assumed: Hopper's shares and costs scaled to a few published figures (InferenceX)"
    return StartingValues(efficiency, provenance, _SIGMA[provenance, experts], source)
