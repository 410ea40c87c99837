"""The engine's part: connects an unmodified vLLM server to NATS."""
