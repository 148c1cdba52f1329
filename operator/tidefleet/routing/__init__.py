"""Where a request goes: what endpoints hold, what they are doing, and the pick priced in seconds and dollars.

Pure: no input or output, no clock, no randomness but a passed seed; ``now`` comes in as monotonic seconds. Imports only
``economics`` and ``api``, never ``planning`` or ``flipping``.
"""
