"""What of the peaks an engine reaches, and its fixed costs: the starting values where nothing has been measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Share of each peak that an engine reaches, and its fixed costs.

    Defaults are the uncalibrated starting values: no measurement of this model on this accelerator stands behind them.

    Attributes:
        compute: eta_f, of peak FLOP/s.
        memory: eta_m, of HBM bandwidth.
        network: eta_n, of link bandwidth.
        layer_seconds: t_l, launch and synchronisation time per layer.
        hop_seconds: alpha, latency of one communication step.
        overlap: w in 0..1, share of communication hidden behind compute.
        imbalance: tokens of the busiest chip of an expert group over the mean, >= 1.
    """

    compute: float = 0.55
    memory: float = 0.75
    network: float = 0.5
    layer_seconds: float = 20e-6
    hop_seconds: float = 8e-6
    overlap: float = 0.0
    imbalance: float = 1.0


UNCALIBRATED = Efficiency()
"""Starting values where no measurement of the hardware generation exists."""
