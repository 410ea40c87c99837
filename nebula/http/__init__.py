"""What a gateway says over HTTP: OpenAI's API, the admin API, the past."""
