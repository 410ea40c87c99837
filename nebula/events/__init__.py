"""The vocabulary: events, the state that they fold to, and messages. Pure."""
