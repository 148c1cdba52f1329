"""The endpoint picker: one process that tells any Envoy where each request goes.

It reads Pods, pools and classes from the API server, follows the KV events of the engines, and answers Envoy's external
processing streams (ext_proc over gRPC over HTTP/2). It decides nothing by itself: `tidefleet.routing` does. `serve`
listens and asks a `Chooser` for each request. May import ``tidefleet.cluster``, ``catalogue``, ``telemetry``,
``routing``, ``economics`` and ``api``; never the controller.
"""

from tidefleet.router.chooser import Answer, Choice, Chooser, Hold, Refusal, RequestHead
from tidefleet.router.frames import Limits
from tidefleet.router.health import Health
from tidefleet.router.server import Server, serve

__all__ = ["Answer", "Choice", "Chooser", "Health", "Hold", "Limits", "Refusal", "RequestHead", "Server", "serve"]
