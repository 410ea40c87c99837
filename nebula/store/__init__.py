"""The log on JetStream, and everything else that uses NATS directly."""
