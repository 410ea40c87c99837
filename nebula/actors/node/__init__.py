"""The node: the engines of one machine, from the wish to the process."""
