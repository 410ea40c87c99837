"""OpenAI's stream format: what a client has of an answer, and how another engine goes on. Pure."""
