"""Nebula: many vLLM engines behind one OpenAI-compatible address, event-sourced on NATS."""
