"""The node: runs the engines of one machine."""
