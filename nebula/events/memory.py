"""Amounts of memory as people write them: "6GiB", "512MiB", or plain bytes."""

import re

MIB = 1024**2
GIB = 1024**3
_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": MIB, "gib": GIB, "tib": 1024**4}
_UNITS |= {"kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}
_AMOUNT = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse(amount: int | str) -> int:
    """Give an amount in bytes. Raises ValueError, with a text for people, for anything else."""
    if isinstance(amount, int):
        size = amount
    else:
        match = _AMOUNT.fullmatch(amount)
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError(f"memory: {amount!r} is no amount; write bytes, or 6GiB, or 512MiB")
        size = int(float(match[1]) * _UNITS[match[2].lower()])
    if not 0 < size < 2**63:
        raise ValueError(f"memory: {amount!r} is out of range")
    return size


def text(size: int) -> str:
    """Write bytes for people, to a tenth of a GiB."""
    return f"{size / GIB:.1f} GiB"


def fine(size: int) -> str:
    """Write bytes for people, in MiB below a GiB: of a file, a tenth of a GiB may be all."""
    return text(size) if size >= GIB else f"{size / MIB:.1f} MiB"
