"""Models' files on a node: fetched, measured, removed."""
