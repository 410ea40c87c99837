"""The log on JetStream, and all else that touches NATS itself: streams, connections, the server."""
