"""Checks that an endpoint picker keeps the Endpoint Picker Protocol, whoever wrote it.

The suite is the data plane: it opens ext_proc streams as Envoy does and judges the answers. A case is a function that
raises `Failed`; `run` runs them and `junit` writes what came of them. Clauses marked MUST are the protocol's (Gateway
API Inference Extension, Endpoint Picker Protocol 1.0.0, and Envoy's ext_proc API); SHOULD is what users of a picker
rely on beside it. Only this package imports grpc, and of tidefleet it imports nothing.
"""

from tidefleet.conformance.case import Case, Failed, Level, Outcome, Result, Skipped
from tidefleet.conformance.run import cases, run
from tidefleet.conformance.target import Target

__all__ = ["Case", "Failed", "Level", "Outcome", "Result", "Skipped", "Target", "cases", "run"]
