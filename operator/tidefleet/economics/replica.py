"""A replica: one copy of a model on a group of chips, how it is spread over them, and what of the peaks it reaches."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.efficiency import Efficiency, StartingValues, has_wide_kernels, starting_values
from tidefleet.economics.releases import is_older


@dataclass(frozen=True, slots=True)
class Speculation:
    """Speculative decoding: a step verifies several drafted tokens of each sequence at once.

    Attributes:
        tokens: q, tokens of a sequence that one step verifies, the certain one included.
        accept_length: A, tokens a step yields on average, in [1, q].
        draft_share: time of drafting as a share of the verifying step (a small draft model or an MTP head).
    """

    tokens: int = 4
    accept_length: float = 1.0
    draft_share: float = 0.05


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a model on a group of chips.

    The chips divide into ``data_parallel`` ranks of ``tensor_parallel`` chips for attention and dense layers, each rank
    with its own sequences and its own copy of the dense weights; routed experts are spread over groups of
    ``expert_parallel`` chips. Plain tensor parallelism has one rank and ``expert_parallel`` 1 (experts sharded like the
    rest); DeepSeek's "DEP8" is ``chips=8, tensor_parallel=1, expert_parallel=8``.

    Attributes:
        chips: G, all chips of the replica.
        weights: storage precision of the weights; kv: of the KV cache.
        efficiency: shares of the peaks that are reached; ``None`` = the starting values for this hardware.
        tensor_parallel: chips that share a sequence; 0 = all of them.
        expert_parallel: chips that the routed experts are spread over whole, 1 = they are sharded like the rest.
        compute: precision of the arithmetic of linear layers; empty = what follows from storage and hardware.
        speculation: ``None`` = one token a step.
        engine: serving engine, e.g. ``vllm``, ``sglang``, ``trtllm``; empty = unknown.
        engine_version: its release, e.g. ``0.11.0``; empty = unknown, taken as recent.
    """

    model: Architecture
    accelerator: Accelerator
    chips: int
    weights: str
    kv: str
    efficiency: Efficiency | None = None
    tensor_parallel: int = 0
    expert_parallel: int = 1
    compute: str = ""
    speculation: Speculation | None = None
    engine: str = ""
    engine_version: str = ""

    @property
    def tp(self) -> int:
        """Chips that share one sequence."""
        return self.tensor_parallel or self.chips

    @property
    def data_parallel(self) -> int:
        """Ranks that each serve sequences of their own."""
        return max(1, self.chips // self.tp)

    @property
    def expert_chips(self) -> int:
        """Chips over which one copy of the routed experts is spread: at least those that share a sequence."""
        return min(self.chips, max(self.expert_parallel, self.tp))

    @property
    def starting(self) -> StartingValues:
        """The starting values for this hardware, engine and kind of model, with provenance and error."""
        return starting_values(
            self.accelerator.name,
            self.precision,
            engine=self.engine,
            dense_precision=self.dense_precision,
            experts=self.model.is_moe,
            wide=self.runs_wide,
            ranks=self.data_parallel > 1,
            crosses=self.expert_chips > max(1, self.accelerator.scale_up_domain),
            older=is_older(self.engine, self.engine_version),
        )

    @property
    def runs_wide(self) -> bool:
        """Whether experts are spread over more chips than a node has, on kernels made for that.

        These are for experts that are multiplied as they are stored (DeepEP, DeepGEMM).
        """
        wide = self.expert_parallel > max(8, self.accelerator.chips_per_node)
        return wide and has_wide_kernels(self.accelerator.name) and self.precision == self.weights

    @property
    def reached(self) -> Efficiency:
        """The shares of the peaks in use: the given ones, else the starting values for this hardware."""
        return self.efficiency or self.starting.efficiency

    @property
    def precision(self) -> str:
        """Precision of the arithmetic of linear layers; of the experts where only these are quantised.

        Raises:
            KeyError: the accelerator has no figure for it.
        """
        found = self.compute or self.accelerator.compute_precision(self.weights)
        if found is None:
            raise KeyError(self.weights)
        return found

    @property
    def dense_precision(self) -> str:
        """Precision of the arithmetic outside routed experts: 16 bits where only experts are quantised (gpt-oss)."""
        return "Bf16" if self.model.only_experts_quantised(self.weights) else self.precision

    @property
    def peak_flops(self) -> float:
        """FLOP/s of all chips at the precision the linear layers compute in.

        Raises:
            KeyError: the accelerator has no figure for it.
        """
        return self.chips * self.accelerator.flops[self.precision]

    @property
    def memory_bytes_per_second(self) -> float:
        """HBM bandwidth of all chips."""
        return self.chips * self.accelerator.memory_bytes_per_second
