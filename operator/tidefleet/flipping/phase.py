"""The phases of a flip, in the order a node goes through them."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a unit (a node, or nodes that change hands together) stands between serving and training."""

    SERVING = "Serving"
    """Serves, or stands ready to."""
    PLANNED = "Planned"
    """Chosen for a loan; nothing has been changed yet."""
    CORDONED = "Cordoned"
    """Takes no further pods; requests stop being routed to its replicas once the others carry the demand."""
    DRAINING = "Draining"
    """Its replicas finish their requests and leave."""
    VERIFYING = "Verifying"
    """Nothing may hold its accelerators any more."""
    TRAINING = "Training"
    """On loan: training may use it."""
    RECALLING = "Recalling"
    """Training is asked for a checkpoint and has to go."""
    RECLAIMING = "Reclaiming"
    """As Verifying, on the way back."""
    WARMING = "Warming"
    """Serves again as soon as its replicas are ready and a trial request is answered well."""
    QUARANTINED = "Quarantined"
    """Something is wrong with it; nobody is scheduled here until it is released."""

    @property
    def metric_state(self) -> str:
        """The state under which its accelerators are counted: serving, draining, training, warming or quarantined."""
        return _METRIC_STATES[self]

    @property
    def is_tainted(self) -> bool:
        """Whether the node carries a taint of ours, so that serving pods stay away."""
        return self not in (Phase.SERVING, Phase.PLANNED, Phase.WARMING)

    @property
    def is_lent(self) -> bool:
        """Whether training may hold its accelerators."""
        return self in (Phase.TRAINING, Phase.RECALLING)

    @property
    def is_outbound(self) -> bool:
        """On the way to training, where a roll-back is still possible."""
        return self in (Phase.PLANNED, Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING)

    @property
    def is_homebound(self) -> bool:
        """On the way back to serving."""
        return self in (Phase.RECALLING, Phase.RECLAIMING, Phase.WARMING)

    @property
    def is_moving(self) -> bool:
        """In the middle of a flip, in either direction."""
        return self.is_outbound or self.is_homebound


_METRIC_STATES = {
    Phase.SERVING: "serving",
    Phase.PLANNED: "serving",
    Phase.CORDONED: "draining",
    Phase.DRAINING: "draining",
    Phase.VERIFYING: "draining",
    Phase.TRAINING: "training",
    Phase.RECALLING: "warming",
    Phase.RECLAIMING: "warming",
    Phase.WARMING: "warming",
    Phase.QUARANTINED: "quarantined",
}
