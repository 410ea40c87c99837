"""The web console: its files, and what its pages show of the cluster at any moment."""
