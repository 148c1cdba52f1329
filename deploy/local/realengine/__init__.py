"""Real vLLM engines on a CPU, with a tiny model of random weights: the engine that nobody here wrote.

The environment takes about 6 GB and six minutes once, in the per-user cache; an engine about 4 GB of memory.
"""
