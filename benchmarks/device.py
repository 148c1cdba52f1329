"""What one GPU does with a model's prefill, decode and KV transfers: times, watts and joules to check the cost model.

    python benchmarks/device.py [--models llama-3.1-8b:Bf16,llama-3.3-70b:Fp8,...] [--seconds 1.0] > FILE
    python benchmarks/device_compare.py FILE

Runs where PyTorch sees a CUDA device. Nothing of tidefleet is imported: this file, device_model.py and
device_experts.py are all that a machine needs.
A model is its shapes with random weights: the same GEMMs, the same attention over a KV cache that is really read, the
same norms and rotations, fused by torch.compile as engines fuse them. Every step of decode is replayed as a CUDA graph.
FP8 is per-tensor scaled e4m3 through cuBLASLt; attention and KV are 16 bits; the output head is 16 bits. Tokens go to
experts as a random router sends them, at 16 bits: few tokens an expert by ``device_experts.py``, many by grouped GEMMs.
What an engine adds (scheduling, sampling, tokenizing, HTTP) is not in it.

One JSON object a line:

device   name, bytes, torch, idle watts, GB/s of a copy within the device (read and written), TFLOP/s of large GEMMs
copy     GB/s between pinned host memory and the device by bytes of one copy, and watts meanwhile
prefill  seconds and joules of ``uncached`` tokens behind ``cached`` ones, in chunks of at most ``chunk``
decode   seconds and joules of a step of ``batch`` sequences at ``context`` tokens
fetch    seconds and joules to bring the KV of ``tokens`` from host memory, layer by layer in copies of ``copy_bytes``

Joules are the whole card's, by NVML's energy counter, idle included.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else __file__.rpartition("/")[0]
sys.path[:] = [one for one in sys.path if one != _HERE]

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.attention.bias import causal_lower_right  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

sys.path.append(_HERE)
from device_model import BF16, DEVICE, FP8, SHAPES, Cache, Model  # noqa: E402

CHUNK = 8192
GRAPHED = 2048
"""Prompts up to this length are replayed as a graph, as steps of decode are: launching takes longer than the work."""
GIB = 2**30


class Meter:
    """Seconds and joules of work that is repeated until it takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        try:
            import pynvml  # noqa: PLC0415

            pynvml.nvmlInit()
            self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
            self._joules()
        except Exception:  # no NVML here: times alone
            self._nvml = None

    def _joules(self) -> float:
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000.0

    def of(self, work: Callable[[], object]) -> dict[str, float | None]:
        """Mean seconds and joules of one call, after one that warms up."""
        work()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        once = time.perf_counter() - begin
        repeats = max(2, min(20000, int(self.seconds / max(once, 1e-6))))
        joules = self._joules() if self._nvml else 0.0
        begin = time.perf_counter()
        for _ in range(repeats):
            work()
        torch.cuda.synchronize()
        took = time.perf_counter() - begin
        used = self._joules() - joules if self._nvml else None
        return {
            "seconds": took / repeats,
            "joules": None if used is None else used / repeats,
            "watts": None if used is None else used / took,
            "repeats": repeats,
        }

    def idle_watts(self) -> float | None:
        """Watts of the card with its context open and nothing to do."""
        if not self._nvml:
            return None
        torch.cuda.synchronize()
        time.sleep(0.5)
        joules, begin = self._joules(), time.perf_counter()
        time.sleep(1.5)
        return (self._joules() - joules) / (time.perf_counter() - begin)


BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)


def fastest(work: Callable[[], object]) -> SDPBackend:
    """The attention kernel that takes the shortest time for this work."""
    found = []
    for backend in BACKENDS:
        try:
            with sdpa_kernel(backend):
                work()
                torch.cuda.synchronize()
                begin = time.perf_counter()
                for _ in range(5):
                    work()
                torch.cuda.synchronize()
                found.append((time.perf_counter() - begin, backend))
        except RuntimeError:
            continue
    if not found:
        raise RuntimeError("no attention kernel takes these shapes")
    return min(found, key=lambda one: one[0])[1]


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """The same work as a CUDA graph, which costs the host one launch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def decode_work(model: Model, batch: int, context: int) -> tuple[Callable[[], object], str, Cache]:
    """One step of ``batch`` sequences that each have ``context`` tokens, the newest one included, as a CUDA graph."""
    shape, cache = model.shape, Cache(model, batch, context)
    rows = max(batch, 16) if model.fp8 else batch
    x = torch.empty(rows, shape.hidden, device=DEVICE, dtype=BF16).normal_()
    angles = model.angles(torch.full((rows,), context - 1, device=DEVICE))
    groups = shape.heads // shape.kv_heads

    def score(q, at):
        return scaled_dot_product_attention(q, cache.k[at], cache.v[at])

    def attend(at, q, k, v):
        cache.k[at][:, :, -1] = k[:batch]
        cache.v[at][:, :, -1] = v[:batch]
        got = score(q[:batch].reshape(batch, shape.kv_heads, groups, shape.head_size), at)
        got = got.reshape(batch, -1)
        return torch.cat((got, got.new_zeros(rows - batch, got.shape[1]))) if rows > batch else got

    probe = torch.empty(batch, shape.kv_heads, groups, shape.head_size, device=DEVICE, dtype=BF16).normal_()
    backend = fastest(lambda: [score(probe, at) for at in range(min(4, len(model.layers)))])

    def step():
        with sdpa_kernel(backend):
            return model.forward(x, angles, attend, rows)

    return captured(step), backend.name, cache


def prefill_work(model: Model, uncached: int, cached: int) -> tuple[Callable[[], object], str]:
    """A prompt of ``cached`` + ``uncached`` tokens, of which the first are in the cache."""
    shape, cache = model.shape, Cache(model, 1, cached + uncached)
    group = {"enable_gqa": True}

    def attend_from(begin, end):
        causal = {"is_causal": True} if begin == 0 else {"attn_mask": causal_lower_right(end - begin, end)}

        def attend(at, q, k, v):
            cache.k[at][0, :, begin:end] = k.transpose(0, 1)
            cache.v[at][0, :, begin:end] = v.transpose(0, 1)
            past = cache.k[at][:, :, :end], cache.v[at][:, :, :end]
            got = scaled_dot_product_attention(q.transpose(0, 1)[None], *past, **causal, **group)
            return got[0].transpose(0, 1).reshape(end - begin, -1)

        return attend

    chunks = [(at, min(at + CHUNK, cached + uncached)) for at in range(cached, cached + uncached, CHUNK)]
    x = torch.empty(min(CHUNK, uncached), shape.hidden, device=DEVICE, dtype=BF16).normal_()
    angles = {at: model.angles(torch.arange(at, end, device=DEVICE)) for at, end in chunks}

    def work():
        for at, end in chunks:
            found = model.forward(x[: end - at], angles[at], attend_from(at, end), 1)
        return found

    # Of the kernels only flash takes grouped heads with an aligned causal mask; cuDNN takes the first chunk.
    names = BACKENDS[:2] if len(chunks) == 1 and cached == 0 else BACKENDS[:1]
    found = []
    for backend in names:
        with sdpa_kernel(backend):
            try:
                work()
                torch.cuda.synchronize()
                begin = time.perf_counter()
                work()
                torch.cuda.synchronize()
                found.append((time.perf_counter() - begin, backend))
            except RuntimeError:
                continue
    backend = min(found, key=lambda one: one[0])[1]

    def fixed():
        with sdpa_kernel(backend):
            return work()

    return captured(fixed) if uncached <= GRAPHED else fixed, backend.name


def check_experts() -> float:
    """Experts by grouped products against one product an expert: relative error of a layer's output."""
    torch.manual_seed(2)
    shape = SHAPES["qwen3-30b-a3b"]
    model = Model(shape, "Bf16", layers=1)
    (layer,) = model.layers
    x = torch.empty(96, shape.hidden, device=DEVICE, dtype=BF16).normal_()
    weights, chosen = torch.softmax((x @ layer["router"]).float(), -1).topk(shape.experts_per_token, dim=-1)
    reference = torch.zeros(x.shape, device=DEVICE)
    for token in range(len(x)):
        for weight, expert in zip(weights[token] / weights[token].sum(), chosen[token].tolist(), strict=True):
            gate, up = (x[token] @ layer["up"][expert]).float().chunk(2)
            reference[token] += (
                weight * ((torch.nn.functional.silu(gate) * up).to(BF16) @ layer["down"][expert]).float()
            )
    return float((model.feed(x, layer).float() - reference).norm() / reference.norm())


def check(precision: str) -> float:
    """Prefill of n + 1 tokens against prefill of n and one step of decode, on two layers: relative error of logits."""
    torch.manual_seed(1)
    shape, n = SHAPES["llama-3.1-8b"], 257
    model = Model(shape, precision, layers=2)
    x = torch.empty(n + 1, shape.hidden, device=DEVICE, dtype=BF16).normal_()
    room = [torch.empty(2, shape.kv_heads, n + 1, shape.head_size, device=DEVICE, dtype=BF16) for _ in model.layers]
    groups = shape.heads // shape.kv_heads

    def whole(at, q, k, v):
        room[at][0], room[at][1] = k.transpose(0, 1), v.transpose(0, 1)
        got = scaled_dot_product_attention(
            q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], is_causal=True, enable_gqa=True
        )
        return got[0].transpose(0, 1).reshape(n + 1, -1)

    def step(at, q, k, v):
        room[at][:, :, -1].zero_()
        room[at][0, :, -1], room[at][1, :, -1] = k[0], v[0]
        got = scaled_dot_product_attention(
            q[:1].reshape(1, shape.kv_heads, groups, -1), room[at][:1], room[at][1:]
        ).reshape(1, -1)
        return got.expand(rows, -1).contiguous()

    reference = model.forward(x, model.angles(torch.arange(n + 1, device=DEVICE)), whole, 1).float()
    rows = 16 if model.fp8 else 1
    last = x[-1:].expand(rows, -1).contiguous()
    found = model.forward(last, model.angles(torch.full((rows,), n, device=DEVICE)), step, 1).float()
    return float((found - reference).norm() / reference.norm())


def ceilings(meter: Meter) -> dict[str, object]:
    """What the card reaches at best: a copy within it, and large products on random data."""
    a = torch.empty(2 * GIB, device=DEVICE, dtype=torch.uint8).random_()
    b = torch.empty_like(a)
    moved = meter.of(lambda: b.copy_(a))
    found: dict[str, object] = {"copy_gigabytes_per_second": 2 * a.numel() / moved["seconds"] / 1e9}
    found["copy_watts"] = moved["watts"]
    n = 8192
    x, y = (torch.empty(n, n, device=DEVICE, dtype=BF16).normal_() for _ in range(2))
    took = meter.of(lambda: x @ y)
    found["bf16_teraflops"], found["bf16_watts"] = 2 * n**3 / took["seconds"] / 1e12, took["watts"]
    one = torch.ones((), device=DEVICE)
    x8, y8 = x.to(FP8), y.t().contiguous().to(FP8).t()
    took = meter.of(lambda: torch._scaled_mm(x8, y8, scale_a=one, scale_b=one, out_dtype=BF16, use_fast_accum=True))
    found["fp8_teraflops"], found["fp8_watts"] = 2 * n**3 / took["seconds"] / 1e12, took["watts"]
    return found


def copies(meter: Meter, host: torch.Tensor, tell: Callable[..., None]) -> None:
    """Both directions, by the size of one copy."""
    room = torch.empty(GIB, device=DEVICE, dtype=torch.uint8)
    for size in (2**15, 2**18, 2**21, 2**24, 2**28):
        count = min(4096, GIB // size)
        for direction in ("host-to-device", "device-to-host"):
            to, came = (room, host) if direction == "host-to-device" else (host, room)
            parts = [(to[at : at + size], came[at : at + size]) for at in range(0, count * size, size)]

            def work(parts=parts):
                for into, out in parts:
                    into.copy_(out, non_blocking=True)

            took = meter.of(work)
            tell("copy", direction=direction, bytes=size, copies=count,
                 gigabytes_per_second=count * size / took["seconds"] / 1e9, watts=took["watts"])  # fmt: skip


def fetches(meter: Meter, model_name: str, host: torch.Tensor, tell: Callable[..., None]) -> None:
    """KV of a prefix from host memory: one copy a layer and chunk of 2 MiB, into where a cache has it."""
    shape = SHAPES[model_name]
    layer_bytes = shape.kv_bytes // shape.layers
    for tokens in (1024, 8192, 32768, 65536):
        if tokens * shape.kv_bytes > host.numel():
            continue
        room = [torch.empty(tokens * layer_bytes, device=DEVICE, dtype=torch.uint8) for _ in range(shape.layers)]
        copy_bytes = min(2**21, tokens * layer_bytes)

        def work(room=room, size=copy_bytes):
            at = 0
            for layer in room:
                for begin in range(0, layer.numel(), size):
                    layer[begin : begin + size].copy_(host[at : at + size], non_blocking=True)
                    at += size

        took = meter.of(work)
        tell("fetch", model=model_name, tokens=tokens, bytes=tokens * shape.kv_bytes, copy_bytes=copy_bytes,
             gigabytes_per_second=tokens * shape.kv_bytes / took["seconds"] / 1e9, **took)  # fmt: skip
        del room


DECODE = ((1, 1024), (4, 1024), (8, 1024), (16, 1024), (32, 1024), (64, 1024), (128, 1024), (256, 1024),
          (8, 8192), (32, 4096), (1, 32768), (16, 16384))  # fmt: skip
PREFILL = ((128, 0), (512, 0), (2048, 0), (8192, 0), (512, 8192), (2048, 32768), (32768, 0), (65536, 0))


def measure(name: str, precision: str, meter: Meter, until: float, tell: Callable[..., None]) -> None:
    """All rows of one model that fit."""
    shape = SHAPES[name]
    weights = shape.linear_weights * (1 if precision == "Fp8" else 2)
    free = torch.cuda.mem_get_info()[0]
    if weights + 2 * shape.hidden * shape.vocabulary > 0.9 * free:
        tell("skipped", model=name, weights=precision, because=f"{weights / 1e9:.0f} GB of weights")
        return
    model = Model(shape, precision)
    for kind, rows in (("decode", DECODE), ("prefill", PREFILL)):
        for first, second in rows:
            if time.monotonic() > until:
                tell("skipped", model=name, weights=precision, because="no time left")
                return
            tokens = first * second if kind == "decode" else first + second
            if (tokens * shape.kv_bytes) > 0.85 * torch.cuda.mem_get_info()[0] or (
                kind == "prefill" and first >= 65536 and shape.layers > 32
            ):
                continue
            try:
                if kind == "decode":
                    work, attention, cache = decode_work(model, first, second)
                    took = meter.of(work)
                    tell(kind, model=name, weights=precision, batch=first, context=second, attention=attention, **took)
                    del work, cache
                else:
                    work, attention = prefill_work(model, first, second)
                    took = meter.of(work)
                    tell(kind, model=name, weights=precision, uncached=first, cached=second, chunk=CHUNK,
                         attention=attention, **took)  # fmt: skip
                    del work
            except (RuntimeError, torch.OutOfMemoryError) as error:
                tell("skipped", model=name, weights=precision, kind=kind, row=[first, second], because=str(error)[:200])
            torch.cuda.empty_cache()
    del model
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="llama-3.1-8b:Bf16,llama-3.1-8b:Fp8,llama-3.3-70b:Fp8,qwen3-30b-a3b:Bf16")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each row repeats its work")
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which no row begins")
    args = parser.parse_args()
    until = time.monotonic() + args.limit
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device; expected one, e.g. an H100")
    torch._dynamo.config.cache_size_limit = 256
    begin = time.monotonic()

    def tell(kind: str, **row: object) -> None:
        print(json.dumps({"kind": kind, **row, "at": round(time.monotonic() - begin, 1)}), flush=True)

    meter = Meter(args.seconds)
    torch.zeros(1, device=DEVICE)
    properties = torch.cuda.get_device_properties(0)
    tell("device", name=properties.name, bytes=properties.total_memory, torch=torch.__version__,
         idle_watts=meter.idle_watts(), **ceilings(meter))  # fmt: skip
    for precision in ("Bf16", "Fp8"):
        error = check(precision)
        tell("check", weights=precision, logits_relative_error=error)
        if not error < 0.05:
            sys.exit(f"decode and prefill disagree at {precision}: relative error {error}; expected below 0.05")
    error = check_experts()
    tell("check", experts=True, layer_relative_error=error)
    if not error < 0.05:
        sys.exit(f"experts together and one by one disagree: relative error {error}; expected below 0.05")
    torch.cuda.empty_cache()
    host = torch.empty(8 * GIB, dtype=torch.uint8, pin_memory=True)
    copies(meter, host, tell)
    fetches(meter, "llama-3.1-8b", host, tell)
    for one in args.models.split(","):
        name, _, precision = one.partition(":")
        measure(name, precision, meter, until, tell)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
