"""What a request asks of a pool, as far as the choice of its endpoint depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NO_KEYS: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
"""Keys of a prompt of which no whole block is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One request.

    Attributes:
        pool, model: where it belongs, e.g. ``prod/chat`` and ``llama-3.3-70b``.
        tokens: n, prompt tokens, exact or estimated (see ``token_exact``).
        keys: chained keys of the prompt's whole blocks, shape (blocks,).
        block_size: tokens of one block of ``keys``.
        session, tenant: hashed identities; ``None`` = not stated.
        wclass: name of its WorkloadClass; empty = none matches.
        priority: higher is served first and shed last.
        output_tokens: O, tokens expected to be generated.
        ttft_objective_seconds: promised time to the first token, for a prompt of this length; ``None`` = no promise.
        tpot_objective_seconds: promised mean time per token after the first; ``None`` = no promise.
        deadline: ``now`` by which a deferrable request must be done; ``None`` = somebody waits for it.
        lora: adapter that it names; ``None`` = the base model.
        token_exact: the tokens came from the model's tokenizer, not from a rule of thumb.
        cache_ttl_seconds: lifetime that the client asked for its cached prefix; ``None`` = no hint.
        ends_in_tool_call: the session's answer before this one ended in a tool call, so this turn likely will.
        margin_usd: revenue less cost of serving it; ``None`` = not priced.
        endpoint_seconds: seconds of an endpoint that it takes, where it is priced (see ``margin``).
    """

    pool: str
    model: str
    tokens: int
    keys: NDArray[np.uint64] = field(default_factory=lambda: NO_KEYS)
    block_size: int = 16
    session: int | None = None
    tenant: int | None = None
    wclass: str = ""
    priority: int = 0
    output_tokens: float = 256.0
    ttft_objective_seconds: float | None = None
    tpot_objective_seconds: float | None = None
    deadline: float | None = None
    lora: str | None = None
    token_exact: bool = False
    cache_ttl_seconds: float | None = None
    ends_in_tool_call: bool = False
    margin_usd: float | None = None
    endpoint_seconds: float | None = None

    @property
    def is_deferrable(self) -> bool:
        """Whether it may wait for slack."""
        return self.deadline is not None
