"""Fuzzes every path of a gateway, and watches that it stays well: `python -m tests.fuzz`."""
