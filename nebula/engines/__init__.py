"""A simulated engine: it replaces vLLM, and knows nothing of Nebula."""
