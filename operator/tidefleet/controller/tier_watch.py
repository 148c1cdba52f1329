"""Whether engines find in KV tiers what the plan counts on; pure but for what it remembers.

A plan with tiers has fewer replicas than one without, so a tier that engines lack is too little capacity. Engines tell
how many prompt tokens they looked for in tiers and how many they found. Over ``PATIENCE_SECONDS`` (longer where
sessions pause longer) and tokens enough to see it, finding less than ``LOST_SHARE`` of what is counted on means that it
is not there; finding ``FOUND_SHARE`` of it means that it is, at once. What lies between leaves the verdict as it was.
Only engines that were read count: time without usable pages is no evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tidefleet.api import ConditionType, Reason
from tidefleet.planning.words import brief

PATIENCE_SECONDS = 1800.0
PAUSES = 4.0
"""Mean pauses between two turns that are waited for at least: what comes again later was not there to be found."""

LOST_SHARE, FOUND_SHARE = 0.02, 0.1
MOST_SECONDS = 300.0
"""Between two looks at most so much counts as watched: engines are read once a minute or oftener."""

LEAST_TOKENS = 100_000.0
"""Tokens that must have been counted on before none of them says anything; a tenth of that for some of them."""


class Sight(StrEnum):
    """What engines have shown of the tiers."""

    UNKNOWN = "Unknown"
    FOUND = "Found"
    MISSED = "Missed"
    """They look there, and find nothing."""
    NOT_ASKED = "NotAsked"
    """They do not look there: nothing set them up with a tier."""


REASONS: Mapping[Sight, Reason] = {
    Sight.UNKNOWN: Reason.NOT_SEEN_YET,
    Sight.FOUND: Reason.HITS_SEEN,
    Sight.MISSED: Reason.NO_HITS,
    Sight.NOT_ASKED: Reason.NOT_SET_UP,
}

THEN = "; replicas no longer count on them"
"""Between the words of a verdict and what to do about it."""


@dataclass(frozen=True, slots=True)
class TierSeen:
    """Prompt tokens of a pool's engines since they were first read, and those looked for and found in KV tiers."""

    prompt_tokens: float = 0.0
    queried_tokens: float = 0.0
    hit_tokens: float = 0.0

    def follows(self, before: TierSeen) -> bool:
        """Whether this was counted on from an earlier state, not from new."""
        return (
            self.prompt_tokens >= before.prompt_tokens
            and self.queried_tokens >= before.queried_tokens
            and self.hit_tokens >= before.hit_tokens
        )


@dataclass(slots=True)
class TierWatch:
    """The verdict on a pool's tiers.

    Attributes:
        expected: share of prompt tokens that the plan takes to be found in them, at these ``sizes``.
        words: the verdict in a sentence, as of when it was reached.
    """

    sight: Sight = Sight.UNKNOWN
    expected: float = 0.0
    sizes: tuple[float, ...] | None = None
    words: str = ""
    _from: TierSeen | None = None
    _of: tuple[float, ...] | None = None
    _began: float | None = None
    _looked: float | None = None
    _last: TierSeen = TierSeen()
    _at: float = 0.0
    _seconds: float = 0.0

    @property
    def doubted(self) -> bool:
        """Whether the plan must not count on the tiers."""
        return self.sight in (Sight.MISSED, Sight.NOT_ASKED)

    def look(self, seen: TierSeen | None, *, now: float, patience: float) -> None:
        """Take in what engines have counted so far; once for each moment, however often it is decided.

        What was counted at other sizes says nothing of these.
        """
        if now == self._looked:
            return
        self._looked = now
        if self.sizes != self._of:
            self._of, self._from, self._began = self.sizes, None, now
        if self.expected <= 0.0 and not self.doubted:
            self.sight, self.words = Sight.UNKNOWN, ""
        if seen is None or self.expected <= 0.0:
            return
        before, last, passed = self._from, self._last, now - self._at
        self._last = seen
        if before is None or not seen.follows(last) or passed < 0.0:
            self._from, self._seconds, self._at = seen, 0.0, now
            return
        if seen.prompt_tokens > last.prompt_tokens:
            self._seconds += min(passed, MOST_SECONDS)
            self._at = now
        prompt = seen.prompt_tokens - before.prompt_tokens
        hits = seen.hit_tokens - before.hit_tokens
        queried = seen.queried_tokens - before.queried_tokens
        wanted = self.expected * prompt
        over = self._seconds >= patience and wanted >= LEAST_TOKENS
        if hits >= FOUND_SHARE * wanted and hits >= LEAST_TOKENS / 10.0:
            if self.sight is not Sight.FOUND:
                self.sight = Sight.FOUND
                self.words = f"engines fetched {hits / prompt:.0%} of prompt tokens from KV tiers"
        elif over and hits < LOST_SHARE * wanted:
            sight = Sight.MISSED if queried > 0.0 else Sight.NOT_ASKED
            if sight is not self.sight:
                self.sight = sight
                looked = (
                    f"looked for {brief(queried)} of {brief(prompt)} prompt tokens in KV tiers and found {brief(hits)}"
                    if queried > 0.0
                    else f"looked for none of {brief(prompt)} prompt tokens in a KV tier"
                )
                self.words = (
                    f"in {self._seconds / 60.0:.0f} min engines {looked}, where {self.expected:.0%} were counted on"
                )
        if over:
            self._from, self._seconds = seen, 0.0

    def plans(self, expected: float, sizes: tuple[float, ...]) -> None:
        """Note what the plan takes to be found, and at which sizes."""
        self.expected, self.sizes = expected, sizes

    def is_unproven(self, now: float) -> bool:
        """Whether engines have yet to show what is counted on; after twice the patience nobody waits for it longer."""
        waits = self._began is None or 0.0 <= now - self._began < 2.0 * PATIENCE_SECONDS
        return self.sight is Sight.UNKNOWN and self.expected > 0.0 and waits

    def recall(self, status: Mapping[str, Any]) -> None:
        """What an earlier leader had come to, from the pool's status."""
        conditions = status.get("conditions")
        for one in conditions if isinstance(conditions, list) else ():
            if isinstance(one, Mapping) and one.get("type") == str(ConditionType.KV_TIERS_FOUND):
                known = {str(reason): sight for sight, reason in REASONS.items()}
                self.sight = known.get(str(one.get("reason")), Sight.UNKNOWN)
                self.words = str(one.get("message", "")).partition(THEN)[0]
