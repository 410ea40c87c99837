"""Looking back at a log: replay, differences, why, what-if, the way back. Pure."""
