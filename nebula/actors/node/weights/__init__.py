"""Models' files on a node: fetching, measuring and removing them."""
