"""OpenAI's stored responses and conversations over HTTP, and the work that no client waits for."""
