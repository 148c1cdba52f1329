"""The time a fleet lives in: real, scaled for a demo, or moved by hand in a test.

Dwell times, windows and forecasts run on a ``Clock``. Leases, HTTP timeouts and back-off stay on real time, since
the other end of those does not know about ours.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the fleet loop is given instead of ``time``."""

    @property
    def scale(self) -> float:
        """Simulated seconds that pass in one real second; 1 for real time."""
        ...

    def now(self) -> float:
        """Unix seconds of the (possibly simulated) wall clock."""
        ...

    def monotonic(self) -> float:
        """Simulated seconds from an arbitrary start that never go backwards."""
        ...

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> bool:
        """Wait `seconds` simulated seconds, or less when `wake` is set.

        Returns:
            True when woken before (or at) the end by `wake`. The event is left set: its owner clears it.
        """
        ...


class RealClock:
    """Wall-clock time as the machine has it."""

    @property
    def scale(self) -> float:
        """One."""
        return 1.0

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> bool:
        """Wait real seconds; see `Clock.sleep`."""
        return _wait(seconds, wake)

    def __repr__(self) -> str:
        return "real"


class ScaledClock:
    """A wall clock that runs `scale` times faster, fixed by three numbers that processes can share.

    ``now() = simulated_epoch + (unix time - real_epoch) * scale``: no state, so an operator and an emulator started
    with the same three numbers agree to the microsecond without talking to each other.
    """

    def __init__(self, scale: float, real_epoch: float, simulated_epoch: float) -> None:
        if not 0 < scale < float("inf"):
            raise ValueError(f"clock scale is {scale}; expected a positive number, e.g. 576 (a day in 150 s)")
        self._scale = float(scale)
        self.real_epoch = float(real_epoch)
        self.simulated_epoch = float(simulated_epoch)

    @property
    def scale(self) -> float:
        """Simulated seconds per real second."""
        return self._scale

    def now(self) -> float:
        """Simulated Unix seconds."""
        return self.simulated_epoch + (time.time() - self.real_epoch) * self._scale

    def monotonic(self) -> float:
        """The machine's monotonic clock, scaled."""
        return time.monotonic() * self._scale

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> bool:
        """Wait simulated seconds; see `Clock.sleep`."""
        return _wait(seconds / self._scale, wake)

    def __repr__(self) -> str:
        return f"scale={self._scale!r},real={self.real_epoch!r},simulated={self.simulated_epoch!r}"


class ManualClock:
    """A clock for tests: time passes only by `advance`.

    Args:
        start: Unix seconds at which it starts.
        auto: when true, `sleep` advances the clock itself and returns at once, for single-threaded tests; otherwise
            `sleep` blocks until another thread has advanced the clock far enough.
    """

    def __init__(self, start: float = 1_700_000_000.0, *, auto: bool = False) -> None:
        self._now = start
        self._elapsed = 0.0
        self._auto = auto
        self._moved = threading.Condition()

    @property
    def scale(self) -> float:
        """One."""
        return 1.0

    def now(self) -> float:
        """Unix seconds as set by `start` and `advance`."""
        with self._moved:
            return self._now

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        with self._moved:
            return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and wake the sleepers whose time has come."""
        if seconds < 0:
            raise ValueError(f"cannot advance a clock by {seconds} s; expected zero or more")
        with self._moved:
            self._now += seconds
            self._elapsed += seconds
            self._moved.notify_all()

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> bool:
        """Wait until advanced by `seconds`; see `Clock.sleep`."""
        if self._auto:
            if wake is not None and wake.is_set():
                return True
            self.advance(max(0.0, seconds))
            return False
        with self._moved:
            end = self._elapsed + seconds
            while self._elapsed < end:
                if wake is not None and wake.is_set():
                    return True
                # A plain Event cannot notify our condition, so it is looked at every few real milliseconds.
                self._moved.wait(0.01 if wake is not None else None)
        return wake is not None and wake.is_set()


def parse_clock(text: str) -> Clock:
    """Return the clock that `text` describes.

    Args:
        text: ``real``, or ``scale=576,real=1763800000.0,simulated=1715299200`` (Unix seconds; the simulated time
            ``simulated`` is reached when the real time is ``real``), as `repr` of a `ScaledClock` prints it.

    Raises:
        ValueError: naming the part that cannot be read.
    """
    if text.strip() == "real":
        return RealClock()
    example = "expected 'real' or e.g. 'scale=576,real=1763800000.0,simulated=1715299200'"
    numbers: dict[str, float] = {}
    for part in text.split(","):
        name, separator, value = part.strip().partition("=")
        if not separator or name not in ("scale", "real", "simulated") or name in numbers:
            raise ValueError(f"clock {text!r}: {part.strip()!r} is not one of its parts; {example}")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ValueError(f"clock {text!r}: {name} is {value!r}, not a number; {example}") from None
        if not abs(numbers[name]) < float("inf"):
            raise ValueError(f"clock {text!r}: {name} is {value!r}, not a finite number; {example}")
    missing = {"scale", "real", "simulated"} - numbers.keys()
    if missing:
        raise ValueError(f"clock {text!r}: {', '.join(sorted(missing))} is missing; {example}")
    return ScaledClock(numbers["scale"], numbers["real"], numbers["simulated"])


def _wait(real_seconds: float, wake: threading.Event | None) -> bool:
    if wake is not None:
        return wake.wait(max(0.0, real_seconds))
    if real_seconds > 0:
        time.sleep(real_seconds)
    return False
