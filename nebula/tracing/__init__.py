"""Traces with OpenTelemetry. Only `settings` is imported by processes that make none."""
