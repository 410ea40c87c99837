"""Looking back at a log: replay, differences, why, what-if, reverting. Pure."""
