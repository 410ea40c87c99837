"""What to do about an engine that would fail the same way again, as a command to run. Pure."""

from nebula.events.state import Model
from nebula.history.load_command import load_again


def remedied(model: Model, remedy: str) -> str:
    """Return sentences: a remedy that a node has told, and the command that goes with it."""
    text = f"{remedy[:1].upper()}{remedy[1:]}"
    spec = model.spec
    if "trust-remote-code" in remedy:
        options = {**spec.options, "trust-remote-code": True}
        return f"{text}: {load_again(model, options=options)}."
    if "without adapters" in remedy:
        return f"{text}: {load_again(model, adapters=(), lora=False)}."
    if "another `--task`" in remedy:
        other = "embedding" if spec.task == "chat" else "chat"
        return f"{text}: {load_again(model, task=other)}."
    if remedy.startswith("load it again"):
        return f"{text}. It was loaded with {load_again(model)}."
    if "ask for it again" in remedy:
        return f"{text}: {load_again(model)}."
    return f"{text}."
