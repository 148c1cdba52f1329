"""The only door to the Kubernetes API: connection, slim informers, fenced writes, our lock, Events and the clock.

Synchronous and thread-based: every public object may be used from several threads. Nothing here decides anything;
a decision arrives as a frozen value (``writes.Write``) and leaves as an outcome. May import ``kubernetes`` and
``tidefleet.api``; never kopf, and never a process above it.
"""
