"""Trial requests to replicas on a node that came back: it serves again only when they are answered, and rightly."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from tidefleet.flipping.observation import Canary

log = logging.getLogger(__name__)

PROMPT = "Name the seven days of the week in order, separated by commas."
TOKENS = 16
ANSWER_SECONDS = 20.0
LONGEST_ANSWER = 64 * 1024

TOLERANCE = 0.5
"""Share of the golden answer's beginning that an answer must repeat: batch and kernel choices may turn later tokens."""

AGAIN_SECONDS = 5.0
"""Real seconds after which a trial that failed is repeated; the third failure counts."""

FAILURES = 3


@dataclass(frozen=True, slots=True)
class Engine:
    """Where a replica answers: its pod's uid and the address of its engine, e.g. ``http://10.0.0.7:8000``."""

    uid: str
    url: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial request came to: the text, seconds until it was there, or what went wrong."""

    text: str = ""
    seconds: float = 0.0
    wrong: str = ""


@dataclass(slots=True)
class _State:
    future: Future[Trial] | None = None
    last: Trial | None = None
    failures: int = 0
    at: float = 0.0


def ask(engine: Engine) -> Trial:
    """Send one trial request, greedy and seeded, to an OpenAI-compatible engine."""
    began = time.monotonic()
    try:
        with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False) as client:
            listed = client.get(f"{engine.url}/v1/models")
            listed.raise_for_status()
            model = listed.json()["data"][0]["id"]
            body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "seed": 0}
            reply = client.post(f"{engine.url}/v1/completions", json=body)
            reply.raise_for_status()
            text = reply.json()["choices"][0]["text"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        return Trial(wrong=f"{type(error).__name__}: {str(error)[:120]}")
    if not isinstance(text, str) or not text or len(text) > LONGEST_ANSWER:
        return Trial(wrong="the answer is empty or no text")
    return Trial(text, time.monotonic() - began)


def agrees(answer: str, golden: str) -> bool:
    """Whether an answer repeats enough of the beginning of the golden one."""
    pairs = enumerate(zip(answer, golden, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(len(answer), len(golden)))
    return same >= TOLERANCE * len(golden)


@dataclass(slots=True)
class Canaries:
    """Runs trials beside the loop, and keeps what they came to for as long as their pods are asked about."""

    asking: Callable[[Engine], Trial] = ask
    on_answer: Callable[[], None] = lambda: None
    _states: dict[str, _State] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _workers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=4, thread_name_prefix="canary")
    )

    def judge(self, engines: Sequence[Engine], peers: Sequence[Engine], *, bound_seconds: float) -> tuple[Canary, str]:
        """What is known of these replicas now; trials that are missing are sent.

        Args:
            engines: ready replicas on the unit.
            peers: replicas of the same option elsewhere, whose answer is the golden one.
            bound_seconds: within what time an answer must be there.
        """
        if not engines:
            return Canary.UNKNOWN, ""
        golden = next((trial.text for peer in peers[:1] if (trial := self._trial(peer)) and not trial.wrong), "")
        if peers and not golden and not self._is_lost(peers[0]):
            return Canary.UNKNOWN, ""
        for engine in engines:
            trial = self._trial(engine)
            if trial is None:
                return Canary.UNKNOWN, ""
            wrong = trial.wrong
            if not wrong and trial.seconds > bound_seconds:
                wrong = f"it took {trial.seconds:.1f} s; expected at most {bound_seconds:g}"
            if not wrong and golden and not agrees(trial.text, golden):
                wrong = f"it answered {trial.text[:40]!r}; its peers answer {golden[:40]!r}"
            if wrong:
                return (Canary.FAILED, wrong) if self._failed(engine) else (Canary.UNKNOWN, "")
        return Canary.PASSED, ""

    def forget_all_but(self, uids: set[str]) -> None:
        """Forget replicas that nobody asks about any more."""
        with self._lock:
            for uid in [uid for uid in self._states if uid not in uids]:
                del self._states[uid]

    def close(self) -> None:
        """End; a trial that is under way is not waited for."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _trial(self, engine: Engine) -> Trial | None:
        with self._lock:
            state = self._states.setdefault(engine.uid, _State())
            if state.future is not None and state.future.done():
                state.last, state.future, state.at = state.future.result(), None, time.monotonic()
            if state.future is None and state.last is None:
                state.future = self._workers.submit(self._ask, engine)
            return state.last

    def _ask(self, engine: Engine) -> Trial:
        trial = self.asking(engine)
        self.on_answer()
        return trial

    def _is_lost(self, peer: Engine) -> bool:
        """Whether a peer failed so often that there is no golden answer to be had from it."""
        with self._lock:
            state = self._states.get(peer.uid)
            if state is None or state.last is None or not state.last.wrong:
                return False
        return self._failed(peer)

    def _failed(self, engine: Engine) -> bool:
        """Count a failure and have the trial repeated; whether it failed often enough to count."""
        with self._lock:
            state = self._states[engine.uid]
            if state.last is None:
                return False
            if state.failures < FAILURES and time.monotonic() - state.at >= AGAIN_SECONDS:
                state.failures += 1
                if state.failures < FAILURES:
                    state.last = None
                    state.future = self._workers.submit(self._ask, engine)
            return state.failures >= FAILURES
