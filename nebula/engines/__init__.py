"""A simulated engine: it stands where vLLM stands, and knows nothing of Nebula."""
