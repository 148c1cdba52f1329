"""Products of tokens with the experts that each is sent to, as engines' kernels for few tokens an expert make them.

PyTorch's grouped product is made for many tokens an expert: with few it streams weights at 2.0-2.3 TB/s on an H100 and
an H200 alike. Here a program multiplies up to ``ROWS`` tokens of one expert with a tile of its weights; experts without
tokens cost nothing. Compiled by Triton, which comes with PyTorch.
"""

import torch
import triton
import triton.language as tl

ROWS = 16
"""Of a block: the fewest that a tensor core multiplies."""

_CONFIGS = [
    triton.Config({"TILE": tile, "DEPTH": depth}, num_warps=warps, num_stages=stages)
    for tile, depth, warps, stages in (
        (64, 64, 4, 4),
        (64, 128, 4, 4),
        (128, 64, 4, 4),
        (32, 128, 4, 5),
        (32, 256, 4, 4),
        (128, 128, 8, 3),
    )
]


@triton.autotune(configs=_CONFIGS, key=["inner", "outer", "ROWS"])
@triton.jit
def _products(x, weight, slots, experts, out, count, per_row, inner, outer,  # noqa: PLR0917 - as Triton wants them
              ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """out[slot] = x[slot // per_row] @ weight[expert of the slot's block]."""
    block = tl.program_id(1)
    expert = tl.load(experts + block)
    if expert < 0:
        return
    slot = tl.load(slots + block * ROWS + tl.arange(0, ROWS))
    there = slot < count
    columns = tl.program_id(0) * TILE + tl.arange(0, TILE)
    depth = tl.arange(0, DEPTH)
    from_x = x + (slot // per_row)[:, None].to(tl.int64) * inner + depth[None, :]
    from_weight = weight + expert.to(tl.int64) * inner * outer + columns[None, :] * inner + depth[:, None]
    total = tl.zeros((ROWS, TILE), dtype=tl.float32)
    for _ in range(0, inner, DEPTH):
        a = tl.load(from_x, mask=there[:, None], other=0.0)
        total = tl.dot(a, tl.load(from_weight), total)
        from_x += DEPTH
        from_weight += DEPTH
    tl.store(out + slot[:, None].to(tl.int64) * outer + columns[None, :], total.to(out.dtype.element_ty),
             mask=there[:, None])  # fmt: skip


def route(logits: torch.Tensor, choices: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and numbers of the experts that each token is sent to, both of shape (tokens, choices)."""
    weights, chosen = torch.softmax(logits.float(), -1).topk(choices, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


def in_blocks(chosen: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The (token, choice) slots in blocks of ``ROWS`` slots of one expert.

    Args:
        chosen: experts of each token, shape (tokens, choices).
        numbers: 0 .. experts - 1.

    Returns:
        slots, shape (blocks * ROWS,), where the number of slots stands for none, and the expert of each block, where -1
        stands for none.
    """
    count = chosen.numel()
    expert, order = chosen.flatten().sort()
    begins = torch.searchsorted(expert, numbers)
    counts = torch.searchsorted(expert, numbers, right=True) - begins
    room = (counts + ROWS - 1) // ROWS * ROWS
    ends = torch.cumsum(room, 0)
    blocks = min(count, len(numbers) + count // ROWS)
    slots = torch.full((blocks * ROWS,), count, dtype=torch.int64, device=chosen.device)
    slots[torch.arange(count, device=chosen.device) + (ends - room - begins)[expert]] = order
    at = torch.searchsorted(ends, torch.arange(blocks, device=chosen.device) * ROWS, right=True)
    return slots, torch.where(at < len(numbers), at, -1).to(torch.int32)


def products(
    x: torch.Tensor, weight: torch.Tensor, blocks: tuple[torch.Tensor, torch.Tensor], *, count: int, per_row: int
) -> torch.Tensor:
    """Each slot's row of x, ``slot // per_row``, by its expert's matrix [experts, inner, outer], lying by columns.

    Args:
        blocks: as ``in_blocks`` makes them of so many slots (``count``).

    Returns:
        shape (count, outer).
    """
    (slots, experts), (inner, outer) = blocks, weight.shape[1:]
    out = torch.empty(count, outer, device=x.device, dtype=x.dtype)

    def grid(chosen):
        return (outer // chosen["TILE"], len(experts))

    _products[grid](x, weight, slots, experts, out, count, per_row, inner, outer, ROWS=ROWS)
    return out


def combined(down: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over each token's choices, weighed: down [tokens * choices, hidden], weights [tokens, choices]."""
    return (down.view(*weights.shape, -1).float() * weights[..., None]).sum(1).to(down.dtype)
