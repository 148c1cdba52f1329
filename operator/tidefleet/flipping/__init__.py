"""When a node serves and when it trains: the loan schedule, what a flip is worth, and the state machine of one flip.

Pure: no input or output, no clock and no randomness; time comes in as Unix seconds. Imports only ``economics`` and
``api``, never ``planning``: what a fleet needs comes in as numbers.
"""
