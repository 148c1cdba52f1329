"""Engines on real sockets: the OpenAI endpoints, the metrics page, every fault, the admin server."""

from __future__ import annotations

import itertools
import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from emulator_builders import ACCELERATORS, MODELS, a_pod, an_annotation
from prometheus_client.parser import text_string_to_metric_families

from localcluster.addresses import PodRange
from tidefleet.cluster.clock import ScaledClock
from tidefleet.emulator import Fleet, Running, SimulatedPod
from tidefleet.emulator.server import unbindable

pytestmark = pytest.mark.needs_local_pods

_hosts = itertools.count(2)
SCALE = 50.0
"""Simulated seconds per real one."""


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    """The first two bytes of loopback addresses that nobody else uses, such as 127.1."""
    with PodRange.claim() as own:
        found = ".".join(own.cidr.split(".")[:2])
        problem = unbindable(f"{found}.0.2")
        if problem:
            pytest.skip(problem)
        yield found


@pytest.fixture
def pod(network: str) -> SimulatedPod:
    """A pod with an address and a port that nothing else has."""
    host = f"{network}.0.{next(_hosts)}"
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    return a_pod(ip=host, annotation=an_annotation(port=port))


@pytest.fixture
def emulator(pod: SimulatedPod) -> Iterator[Running]:
    """One engine, fifty times faster than life."""
    with Running(Fleet(ACCELERATORS, MODELS, ScaledClock(SCALE, 1_700_000_000.0, 1_700_000_000.0))) as running:
        running.set_pods([pod])
        yield running


@pytest.fixture
def engine(emulator: Running, pod: SimulatedPod) -> Iterator[httpx.Client]:
    """A client of the engine."""
    port = json.loads(pod.annotations["tidefleet.io/engine"])["port"]
    with httpx.Client(base_url=f"http://{pod.pod_ip}:{port}", timeout=10.0, trust_env=False) as client:
        yield client


@pytest.fixture
def admin(emulator: Running) -> Iterator[httpx.Client]:
    """A client of the admin server."""
    with httpx.Client(base_url=f"http://{emulator.admin}", timeout=10.0, trust_env=False) as client:
        yield client


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(page: str, name: str) -> float:
    """The only sample of this name."""
    (found,) = [number for (sample, _), number in samples(page).items() if sample == name]
    return found


def events(response: httpx.Response) -> list[Any]:
    """The data of server-sent events, the end mark taken off."""
    data = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]


def test_health_models_and_version_answer(engine: httpx.Client) -> None:
    assert engine.get("/health").status_code == 200
    (model,) = engine.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("llama-3.1-8b", 131072)
    assert "version" in engine.get("/version").json()


def test_a_completion_counts_its_tokens(engine: httpx.Client) -> None:
    answer = engine.post(
        "/v1/completions", json={"model": "llama-3.1-8b", "prompt": "x" * 400, "max_tokens": 20}
    ).json()
    assert answer["usage"] == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["choices"][0]["text"]) == 80


def test_a_chat_streams_and_ends_with_usage(engine: httpx.Client) -> None:
    body = {
        "model": "llama-3.1-8b",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "tell me of the sea"}]}],
        "max_completion_tokens": 400,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with engine.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *pieces, last = events(response)
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert pieces  # how many depends on the machine: a loaded one sends several tokens in one piece
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    assert len(text) == 1600
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 400)


def test_the_next_turn_of_a_chat_finds_prompt_and_answer_in_the_cache(engine: httpx.Client) -> None:
    messages = [{"role": "system", "content": "s" * 2000}, {"role": "user", "content": "first"}]
    body = {"model": "llama-3.1-8b", "messages": messages, "max_tokens": 64}
    first = engine.post("/v1/chat/completions", json=body).json()
    messages += [first["choices"][0]["message"], {"role": "user", "content": "second"}]
    second = engine.post("/v1/chat/completions", json=body).json()
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > first["usage"]["prompt_tokens"]
    page = engine.get("/metrics").text
    assert value(page, "vllm:prefix_cache_hits_total") == second["usage"]["prompt_tokens_details"]["cached_tokens"]
    engine.post("/reset_prefix_cache")
    third = engine.post("/v1/chat/completions", json=body).json()
    assert third["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_client_that_leaves_frees_its_place(engine: httpx.Client, emulator: Running) -> None:
    body = {"model": "llama-3.1-8b", "prompt": "x" * 400, "max_tokens": 50_000, "stream": True}
    with engine.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        assert value(engine.get("/metrics").text, "vllm:num_requests_running") == 1.0
    for _ in range(200):
        page = engine.get("/metrics").text
        if value(page, "vllm:num_requests_running") == 0.0:
            break
    aborted = {
        labels: number for (name, labels), number in samples(page).items() if name == "vllm:request_success_total"
    }
    assert [number for labels, number in aborted.items() if ("finished_reason", "abort") in labels] == [1.0]


def test_tokenize_counts_four_bytes_a_token(engine: httpx.Client) -> None:
    assert engine.post("/tokenize", json={"prompt": "abcde"}).json()["count"] == 2


def test_a_sleeping_engine_says_so_and_serves_after_waking(engine: httpx.Client) -> None:
    assert engine.post("/sleep?level=2").status_code == 200
    assert engine.get("/is_sleeping").json() == {"is_sleeping": True}
    states = {dict(labels).get("sleep_state"): n for (name, labels), n in samples(engine.get("/metrics").text).items()
              if name == "vllm:engine_sleep_state"}  # fmt: skip
    assert states == {"awake": 0.0, "weights_offloaded": 0.0, "discard_all": 1.0}
    engine.post("/wake_up")
    assert engine.post("/v1/completions", json={"prompt": "hello"}).status_code == 200
    assert engine.post("/sleep?level=9").status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/completions", b"{", 400, "not JSON"),
        ("/v1/completions", b"[" * 100_000, 400, "not JSON"),
        ("/v1/completions", b"[]", 400, "expected an object"),
        ("/v1/completions", b"{}", 400, "prompt is missing"),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": 0}', 400, "max_tokens"),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": "9"}', 400, "max_tokens"),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": 999999}', 400, "maximum context length"),
        ("/v1/completions", b'{"prompt": "x", "n": 2}', 400, "one answer"),
        ("/v1/completions", b'{"prompt": "x", "stream": "yes"}', 400, "stream"),
        ("/v1/completions", b'{"model": "other", "prompt": "x"}', 404, "does not exist"),
        ("/v1/chat/completions", b'{"messages": []}', 400, "messages"),
        ("/v1/chat/completions", b'{"messages": [{"content": "x"}]}', 400, "no role"),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": 4}]}', 400, "neither text"),
        ("/v1/completions", b'"' + b"x" * (9 * 1024 * 1024) + b'"', 413, "exceeds"),
        ("/tokenize", b"{}", 400, "prompt is missing"),
        ("/nowhere", b"{}", 404, "Not Found"),
        ("/health", b"{}", 405, "Method Not Allowed"),
    ],
)
def test_a_bad_request_is_refused_in_openai_s_shape(
    engine: httpx.Client, path: str, body: bytes, status: int, words: str
) -> None:
    answer = engine.post(path, content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["code"] == status


def test_counters_on_the_page_never_fall_until_a_reset(engine: httpx.Client, admin: httpx.Client) -> None:
    load = {"requestsPerSecond": 8, "inputTokens": 700, "outputTokens": 90, "cachedShare": 0.4}
    assert admin.put("/load/prod/chat", json=load).status_code == 200
    before: dict[Any, float] = {}
    for _ in range(30):
        page = engine.get("/metrics").text
        now = samples(page)
        for (name, labels), number in before.items():
            if name.endswith(("_total", "_count", "_sum", "_bucket")):
                assert now[name, labels] >= number, name
        before = now
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_prompt_tokens"):
        buckets = [n for (sample, _), n in now.items() if sample == f"vllm:{name}_bucket"]
        assert max(buckets) == value(page, f"vllm:{name}_count")
    assert value(page, "vllm:prompt_tokens_total") > 0.0
    assert admin.put("/faults/prod/chat", json={"kind": "counter-reset"}).json() == {"pods": 1}
    after = engine.get("/metrics").text
    assert value(after, "vllm:prompt_tokens_total") < value(page, "vllm:prompt_tokens_total")
    assert value(after, "process_start_time_seconds") > value(page, "process_start_time_seconds")


def test_rates_on_the_page_are_the_load_that_was_offered(
    engine: httpx.Client, admin: httpx.Client, emulator: Running
) -> None:
    load = {"requestsPerSecond": 8, "inputTokens": 700, "outputTokens": 90, "cachedShare": 0.4}
    admin.put("/load/prod/chat", json=load)

    def offered() -> float:
        return float(admin.get("/load").json()["pools"][0]["offered_requests"])

    page, sent = engine.get("/metrics").text, offered()
    while offered() < sent + 1000.0:
        pass
    later, total = engine.get("/metrics").text, offered()
    gained = value(later, "vllm:prompt_tokens_total") - value(page, "vllm:prompt_tokens_total")
    assert gained / 700.0 == pytest.approx(total - sent, rel=0.1)
    hits = value(later, "vllm:prefix_cache_hits_total") / value(later, "vllm:prefix_cache_queries_total")
    assert hits == pytest.approx(0.4, abs=0.01)


def test_a_hanging_engine_accepts_and_never_answers(engine: httpx.Client, admin: httpx.Client) -> None:
    admin.put("/faults/prod/chat-0", json={"kind": "hang"})
    for path in ("/health", "/metrics"):
        with pytest.raises(httpx.ReadTimeout):
            engine.get(path, timeout=0.3)
    admin.delete("/faults/prod/chat-0")
    assert engine.get("/health").status_code == 200


def test_a_crashed_engine_refuses_connections_and_comes_back_empty(engine: httpx.Client, admin: httpx.Client) -> None:
    engine.post("/v1/completions", json={"prompt": "hello there"})
    admin.put("/faults/prod/chat", json={"kind": "crash"})
    with pytest.raises(httpx.TransportError):
        engine.get("/health")
    with pytest.raises(httpx.ConnectError):
        engine.get("/health")
    admin.delete("/faults/prod/chat")
    assert value(engine.get("/metrics").text, "vllm:prompt_tokens_total") == 0.0


def test_a_crash_breaks_a_running_stream(engine: httpx.Client, admin: httpx.Client) -> None:
    body = {"prompt": "x" * 400, "max_tokens": 50_000, "stream": True}
    with engine.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        admin.put("/faults/prod/chat", json={"kind": "crash"})
        with pytest.raises(httpx.TransportError):
            list(lines)


def test_an_engine_in_error_answers_500(engine: httpx.Client, admin: httpx.Client) -> None:
    admin.put("/faults/prod/chat-0", json={"kind": "error-500"})
    for path in ("/health", "/metrics", "/v1/models"):
        assert engine.get(path).status_code == 500


def test_a_slow_engine_takes_longer(engine: httpx.Client, admin: httpx.Client) -> None:
    admin.put("/faults/prod/chat-0", json={"kind": "slow", "factor": 20})
    engine.post("/v1/completions", json={"prompt": "x" * 40, "max_tokens": 30})
    page = engine.get("/metrics").text
    mean = value(page, "vllm:inter_token_latency_seconds_sum") / value(page, "vllm:inter_token_latency_seconds_count")
    admin.delete("/faults/prod/chat-0")
    engine.post("/v1/completions", json={"prompt": "x" * 40, "max_tokens": 30})
    later = engine.get("/metrics").text
    fresh = value(later, "vllm:inter_token_latency_seconds_sum") - value(page, "vllm:inter_token_latency_seconds_sum")
    assert mean == pytest.approx(20.0 * fresh / 29.0, rel=0.1)


def test_metrics_faults_are_visible_on_the_page_alone(engine: httpx.Client, admin: httpx.Client) -> None:
    def page(kind: str) -> bytes:
        assert admin.put("/faults/prod/chat-0", json={"kind": kind}).status_code == 200
        assert engine.get("/health").status_code == 200
        answer = engine.get("/metrics")
        assert answer.status_code == 200
        return answer.content

    assert page("empty-metrics") == b""
    assert all(math.isnan(number) for number in samples(page("nan-metrics").decode()).values())
    assert set(samples(page("infinite-metrics").decode()).values()) == {float("inf")}
    assert set(samples(page("negative-metrics").decode()).values()) == {-1.0}
    with pytest.raises(ValueError):
        samples(page("truncated").decode())
    with pytest.raises(UnicodeDecodeError):
        page("garbage").decode()
    admin.delete("/faults/prod/chat-0")
    assert value(engine.get("/metrics").text, "vllm:num_requests_running") == 0.0


def test_the_operator_reads_the_page(engine: httpx.Client, admin: httpx.Client) -> None:
    families = {family.name: family.type for family in text_string_to_metric_families(engine.get("/metrics").text)}
    assert families["vllm:prompt_tokens"] == "counter"
    assert families["vllm:kv_cache_usage_perc"] == "gauge"
    assert families["vllm:time_to_first_token_seconds"] == "histogram"
    assert families["vllm:cache_config_info"] == "gauge"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", "/load/prod/chat", b"{", 400, "not JSON"),
        ("PUT", "/load/prod/chat", b'{"requestsPerSecond": "many"}', 400, "requestsPerSecond is 'many'"),
        ("PUT", "/load/prod/chat", b"x" * (17 * 1024 * 1024), 413, ""),
        ("DELETE", "/load/prod/absent", b"", 404, "no load"),
        ("PUT", "/faults/prod/chat", b'{"kind": "flood"}', 400, "kind is 'flood'"),
        ("PUT", "/faults/prod/absent", b'{"kind": "counter-reset"}', 404, "no pod"),
        ("DELETE", "/faults/prod/absent", b"", 404, "no fault"),
        ("GET", "/nothing", b"", 404, "Not Found"),
        ("POST", "/engines", b"", 405, "Method Not Allowed"),
    ],
)
def test_the_admin_server_refuses_with_a_reason(
    admin: httpx.Client, *, method: str, path: str, body: bytes, status: int, words: str
) -> None:
    answer = admin.request(method, path, content=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_the_admin_server_shows_load_engines_and_problems(
    admin: httpx.Client, emulator: Running, pod: SimulatedPod
) -> None:
    emulator.set_pods([pod, a_pod("broken", ip="192.0.2.2", annotation="{")])
    admin.put("/load/prod/empty", json={"requestsPerSecond": 1, "inputTokens": 10, "outputTokens": 10})
    pools = {pool["pool"]: pool for pool in admin.get("/load").json()["pools"]}
    assert pools["empty"]["ready_pods"] == 0
    assert pools["empty"]["finished_requests"] == 0.0
    (found,) = admin.get("/engines").json()["engines"]
    assert (found["pod"], found["listening"], found["routable"], found["crashed"]) == ("chat-0", True, True, False)
    assert "prod/broken" in admin.get("/engines").json()["problems"]
    health = admin.get("/healthz").json()
    assert (health["engines"], health["listening"], len(health["problems"])) == (1, 1, 1)
    assert admin.delete("/load/prod/empty").status_code == 200


def test_an_address_that_cannot_be_bound_is_explained(admin: httpx.Client, emulator: Running) -> None:
    emulator.set_pods([a_pod(ip="192.0.2.1")])
    (problem,) = admin.get("/healthz").json()["problems"]
    assert "cannot listen on 192.0.2.1:8000" in problem
    assert "add" in problem
    assert admin.get("/healthz").json()["listening"] == 0


def test_a_socket_closes_when_its_pod_goes_and_opens_when_it_is_ready(
    engine: httpx.Client, emulator: Running, pod: SimulatedPod
) -> None:
    emulator.set_pods([])
    with pytest.raises(httpx.TransportError):
        engine.get("/health")
    with pytest.raises(httpx.ConnectError):
        engine.get("/health")
    emulator.set_pods([pod])
    assert engine.get("/health").status_code == 200


def test_six_hundred_engines_listen_at_once(emulator: Running, admin: httpx.Client, network: str) -> None:
    pods = [
        a_pod(
            f"many-{index}", ip=f"{network}.{1 + index // 200}.{index % 200 + 1}", annotation=an_annotation(port=18432)
        )
        for index in range(600)
    ]
    emulator.set_pods(pods)
    assert admin.get("/healthz").json() == {"engines": 600, "listening": 600, "problems": []}
    with httpx.Client(trust_env=False) as client:
        assert all(client.get(f"http://{pod.pod_ip}:18432/health").status_code == 200 for pod in pods[::60])
