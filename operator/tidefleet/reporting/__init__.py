"""What was paid over a period and what for, from usage records or a Prometheus: ``tidefleet report``.

One bill; every view of it sums to it, with idle time as its own line. Dollars are whole numbers of 10^-12 USD inside,
so that sums are exact and do not depend on their order. It reads files and asks a Prometheus, and nothing else; it
never imports the operator's or the router's process, or Kubernetes. DuckDB, which reads the records, is the optional
extra ``report``.
"""
