"""Placement: which replica goes where, and why not elsewhere. Pure."""
