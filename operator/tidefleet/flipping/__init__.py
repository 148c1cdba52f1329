"""When a node serves and when it trains. Pure: no I/O and no clock; it may import economics and api, not planning."""
