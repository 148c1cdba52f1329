"""The endpoint picker as a gateway sees it: Envoy's ext_proc over gRPC over HTTP/2, and what it learns from engines.

`serve` listens and asks a `Chooser` for each request. May import ``tidefleet.cluster``, ``catalogue``, ``telemetry``,
``routing``, ``economics`` and ``api``; never the controller.
"""

from tidefleet.router.chooser import Choice, Chooser, Refusal, RequestHead
from tidefleet.router.frames import Limits
from tidefleet.router.health import Health
from tidefleet.router.server import Server, serve

__all__ = ["Choice", "Chooser", "Health", "Limits", "Refusal", "RequestHead", "Server", "serve"]
