"""Which accelerators, and how many: candidates for a pool, the cheapest set of them, and how to get there safely.

Pure: no I/O, no clock, no logging. Imports ``tidefleet.economics`` and ``tidefleet.api``. Times are passed in.
"""
