"""A fleet on real traces: runs ``planning``, ``flipping`` and ``routing`` unchanged under a simulated clock.

What it shows is what the operator and the router would do. Time and randomness come from the scenario alone: the same
scenario, traces and seed give the same bytes. It reads traces (``simulator.workload``) and nothing else; it never
imports the operator's or the router's process, Kubernetes or the network.
"""
