"""Grafana's boards, of which `python -m nebula.boards FOLDER` makes the JSON."""
