"""Where a request goes: keys of its content, who holds them, what each endpoint would cost, and the pick.

Everything here is pure: no I/O, no clock (``now`` is monotonic seconds, passed in), no logging, no network libraries.
It may import ``economics`` and ``api``; it is imported by the router process and by the simulator.
"""
