"""A node's own policy: what load requests may use on its machine."""
