"""Flips on the cluster: what is seen of nodes, what is wished for them, and the writes that a phase comes to.

``units`` and ``vetoes`` observe, ``lending`` decides which nodes to lend and to recall, ``flipping.machine`` says where
each stands next, ``dress`` and ``pods`` turn that into writes, ``rounds`` carries one pass out, and ``telling`` says it
in status, Events and metrics. Nothing is remembered that the next leader could not do without.
"""
