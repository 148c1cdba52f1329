"""What a token costs: accelerators, model architectures, roofline timing, memory, energy and money.

Pure: no I/O, no clock, no logging. Imports only ``tidefleet.api``. Everything inside is in SI units: seconds, bytes,
tokens, FLOP, watts, USD. A *replica* is a group of chips that holds one copy of a model.
"""
