"""The engine's part: how an unmodified vLLM server speaks NATS."""
