"""The gateway's HTTP side: OpenAI's API, the admin API, and the history of the cluster."""
