"""`make demo`: a day of a fleet in a few minutes, on a real control plane with simulated accelerators.

Starts the local cluster, installs the chart, runs two operators and the emulated engines on a scaled clock, replays a
real day of demand, and shows and writes what happened. What it shows comes from the API server and from the leader's
/metrics, as it would from a production cluster. May import ``localcluster`` and ``tidefleet``.
"""
