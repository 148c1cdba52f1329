"""A transformer with random weights on a GPU, as fast as plain PyTorch makes it: what ``device.py`` times."""

from dataclasses import dataclass

import torch
from device_experts import combined, in_blocks, products, route

DEVICE = "cuda"
FP8 = torch.float8_e4m3fn
BF16 = torch.bfloat16
FEW = 16
"""Tokens an expert, on average, up to which the kernel for few of them is the faster one."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer with grouped-query attention and gated feed-forward layers.

    With ``experts``, each layer has so many of width ``feed_forward``, and a token passes through
    ``experts_per_token`` of them.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    head_size: int = 128
    vocabulary: int = 128256
    experts: int = 0
    experts_per_token: int = 0

    @property
    def linear_weights(self) -> int:
        """Weights of all layers, head and embedding left out."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward * max(1, self.experts))

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's KV at 16 bits."""
        return 2 * self.layers * self.kv_heads * self.head_size * 2


SHAPES = {
    "llama-3.1-8b": Shape(32, 4096, 32, 8, 14336),
    "llama-3.3-70b": Shape(80, 8192, 64, 8, 28672),
    "qwen3-30b-a3b": Shape(48, 2048, 32, 4, 768, vocabulary=151936, experts=128, experts_per_token=8),
}


def add_norm(x, added, gain):
    """Residual sum and its RMS norm."""
    total = x + added
    wide = total.float()
    return total, (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(BF16) * gain


def add_norm_fp8(x, added, gain):
    """The same, ready for FP8 products."""
    total, normed = add_norm(x, added, gain)
    return total, normed.clamp(-448, 448).to(FP8)


def gated(both):
    """SiLU(gate) * up."""
    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def gated_fp8(both):
    """The same, ready for FP8 products."""
    return gated(both).clamp(-448, 448).to(FP8)


def to_fp8(x):
    """A cast with a fixed scale."""
    return x.clamp(-448, 448).to(FP8)


def rotate(x, cos, sin):
    """Rotary embedding: x [tokens, heads, size], cos and sin [tokens, 1, size/2]."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(BF16)


class Model:
    """A transformer with random weights on the device.

    Args:
        layers: fewer than the shape's for a check of correctness.
    """

    def __init__(self, shape: Shape, precision: str, *, layers: int = 0) -> None:
        self.shape, self.fp8 = shape, precision == "Fp8"
        d, size = shape.hidden, shape.head_size
        if shape.experts and self.fp8:
            raise ValueError("experts are measured at Bf16 alone: PyTorch scales grouped FP8 products row by row")
        feed = self._experts if shape.experts else self._weight
        self.layers = [
            {
                "qkv": self._weight(d, (shape.heads + 2 * shape.kv_heads) * size),
                "out": self._weight(shape.heads * size, d),
                "up": feed(d, 2 * shape.feed_forward),
                "down": feed(shape.feed_forward, d),
                "router": self._weight(d, shape.experts) if shape.experts else None,
            }
            for _ in range(layers or shape.layers)
        ]
        self.gain = torch.ones(d, device=DEVICE, dtype=BF16)
        self.head = torch.empty(d, shape.vocabulary, device=DEVICE, dtype=BF16).normal_(std=0.02)
        self.one = torch.ones((), device=DEVICE)
        self.numbers = torch.arange(shape.experts, device=DEVICE)
        compiled = lambda f: torch.compile(f, dynamic=True)  # noqa: E731
        self.add_norm = compiled(add_norm_fp8 if self.fp8 else add_norm)
        self.gated = compiled(gated_fp8 if self.fp8 else gated)
        self.cast = compiled(to_fp8) if self.fp8 else lambda x: x
        self.rotate = compiled(rotate)
        self.route, self.in_blocks, self.combined = compiled(route), compiled(in_blocks), compiled(combined)
        self.last = compiled(add_norm)

    def _weight(self, rows: int, columns: int) -> torch.Tensor:
        """A matrix that x [n, rows] is multiplied by; as FP8 it lies by columns, as cuBLASLt wants it."""
        if not self.fp8:
            return torch.empty(rows, columns, device=DEVICE, dtype=BF16).normal_(std=rows**-0.5)
        turned = torch.empty(columns, rows, device=DEVICE, dtype=FP8)
        step = max(1, 2**26 // rows)
        for at in range(0, columns, step):
            part = turned[at : at + step]
            part.copy_(torch.empty(part.shape, device=DEVICE, dtype=BF16).normal_(std=rows**-0.5))
        return turned.t()

    def _experts(self, rows: int, columns: int) -> torch.Tensor:
        """As many matrices as there are experts [experts, rows, columns], each lying by columns."""
        found = torch.empty(self.shape.experts, columns, rows, device=DEVICE, dtype=BF16).normal_(std=rows**-0.5)
        return found.transpose(1, 2)

    def feed(self, normed, layer):
        """The feed-forward layer, or the experts that each token is sent to, weighed by the router."""
        if not self.shape.experts:
            return self.times(self.gated(self.times(normed, layer["up"])), layer["down"])
        k, numbers = self.shape.experts_per_token, self.numbers
        weights, chosen = self.route(normed @ layer["router"], k)
        if chosen.numel() <= FEW * len(numbers):
            blocks, count = self.in_blocks(chosen, numbers), chosen.numel()
            up = products(normed, layer["up"], blocks, count=count, per_row=k)
            down = products(self.gated(up), layer["down"], blocks, count=count, per_row=1)
            return self.combined(down, weights)
        expert, order = chosen.flatten().sort()
        ends = torch.searchsorted(expert, numbers, right=True).to(torch.int32)
        up = torch._grouped_mm(normed[order // k], layer["up"], offs=ends)
        down = torch._grouped_mm(self.gated(up), layer["down"], offs=ends)
        by_token = torch.empty_like(down)
        by_token[order] = down
        return self.combined(by_token, weights)

    def times(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """A linear layer."""
        if not self.fp8:
            return x @ weight
        return torch._scaled_mm(x, weight, scale_a=self.one, scale_b=self.one, out_dtype=BF16, use_fast_accum=True)

    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [tokens, 1, size/2]."""
        size = self.shape.head_size
        rates = 500000.0 ** (-torch.arange(0, size, 2, device=DEVICE).float() / size)
        angle = positions.float()[:, None] * rates
        return angle.cos()[:, None], angle.sin()[:, None]

    def forward(self, x, angles, attend, outputs):
        """All layers over x [tokens, hidden]; logits of the last ``outputs`` tokens.

        Args:
            attend: (layer, q [tokens, heads, size], k and v [tokens, kv heads, size]) -> [tokens, heads * size].
        """
        shape, added = self.shape, torch.zeros_like(x)
        heads, kv, size = shape.heads, shape.kv_heads, shape.head_size
        for at, layer in enumerate(self.layers):
            x, normed = self.add_norm(x, added, self.gain)
            qkv = self.times(normed, layer["qkv"]).view(-1, heads + 2 * kv, size)
            turned = self.rotate(qkv[:, : heads + kv], *angles)
            got = attend(at, turned[:, :heads], turned[:, heads:], qkv[:, heads + kv :])
            x, normed = self.add_norm(x, self.times(self.cast(got), layer["out"]), self.gain)
            added = self.feed(normed, layer)
        _, normed = self.last(x[-outputs:], added[-outputs:], self.gain)
        return normed @ self.head


class Cache:
    """KV of ``batch`` sequences of at most ``room`` tokens, filled at random: [batch, kv heads, room, size] a layer."""

    def __init__(self, model: Model, batch: int, room: int) -> None:
        shape = model.shape
        size = (batch, shape.kv_heads, room, shape.head_size)
        self.k = [torch.empty(size, device=DEVICE, dtype=BF16).normal_() for _ in model.layers]
        self.v = [torch.empty(size, device=DEVICE, dtype=BF16).normal_() for _ in model.layers]
