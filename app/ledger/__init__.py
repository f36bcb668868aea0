"""What the gateway has done and is doing: the request log, sums, figures for Prometheus, live state."""
