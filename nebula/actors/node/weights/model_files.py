"""What a folder must have so that an engine can serve a model from it. Pure.

vLLM 0.32 looks for these files (transformers_utils/config.py and gguf_utils.py there).
"""

from collections.abc import Collection

from nebula.actors.node import adapter_files
from nebula.events.advised import command

CONFIGS = ("config.json", "params.json")
"""Hugging Face's description of a model, and Mistral's."""

WHOLE = ".gguf"
"""Files that describe the model which they hold."""


def problem(source: str, names: Collection[str], *, described: bool = False) -> str:
    """Return why no model can be served from a folder with files of these names; "" if one can.

    `described`: an option of its engine says where the description of the model is.
    """
    if any(name in names for name in CONFIGS) or any(name.endswith(WHOLE) for name in names):
        return ""
    if adapter_files.CONFIG in names:
        return (
            f"{source} is a LoRA adapter, not a model: load its base model with --lora, then "
            f"{command('adapters', 'load', 'MODEL', 'NAME', source)}"
        )
    return "" if described else f"{source} does not hold a model: it has no {CONFIGS[0]}"
