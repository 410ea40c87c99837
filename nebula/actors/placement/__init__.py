"""Placement: where replicas go, and why not elsewhere. Pure."""
