"""One replica of a serving engine under a simulated clock: its batch, its KV blocks, and what a request is there.

It knows the speeds that ``routing.rates`` gives and keys of blocks, and nothing of routers or fleets.
"""
