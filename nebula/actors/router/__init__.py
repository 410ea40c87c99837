"""The router: chooses replicas for requests, and appends the cluster's decisions."""
