"""The `nebula` command, most often a module for each of its commands."""
