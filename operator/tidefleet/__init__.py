"""tidefleet: runs fleets of accelerators at the lowest cost per token."""

__version__ = "0.1.0"
