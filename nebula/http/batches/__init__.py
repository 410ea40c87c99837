"""OpenAI's batches over HTTP, and the worker that sends their lines."""
