"""OpenAI's files over HTTP."""
