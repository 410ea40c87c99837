"""Metrics: the table of all of them, what is counted, and how figures become Prometheus's text."""
