"""The vocabulary and what it means: events, the state that they fold to, the messages. Pure."""
