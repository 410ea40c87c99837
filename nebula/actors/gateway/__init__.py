"""The gateway: requests go out, answers come back, whatever dies in between."""
