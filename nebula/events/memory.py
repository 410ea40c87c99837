"""Amounts of memory as people write them: "6GiB", "512MiB", or plain bytes."""

import re

MIB = 1024**2
GIB = 1024**3
_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": MIB, "gib": GIB, "tib": 1024**4}
_UNITS |= {"kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}
_AMOUNT = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse(amount: int | str) -> int:
    """Return an amount in bytes. Raise ValueError with a message for people for other text."""
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
    """Return bytes in words, to a tenth of a GiB."""
    return f"{size / GIB:.1f} GiB"


def shares(whole: int, *parts: int) -> tuple[str, ...]:
    """Return parts of a whole for people, then what is left of it; as printed they add up.

    Each is off by at most a tenth of a GiB; the last one takes the rounding errors of the others.
    """
    left = _tenths(whole)
    written: list[int] = []
    for part in parts:
        tenths = min(_tenths(part), left)
        left -= tenths
        written.append(tenths)
    return tuple(f"{tenths / 10:.1f} GiB" for tenths in (*written, left))


def _tenths(size: int) -> int:
    return round(float(f"{size / GIB:.1f}") * 10)


def small(size: int) -> str:
    """Write bytes for people, in KiB: of what one token takes."""
    return f"{size / 1024:.1f} KiB"


def fine(size: int) -> str:
    """Return bytes in words, in MiB below a GiB, because files may be small."""
    return text(size) if size >= GIB else f"{size / MIB:.1f} MiB"
