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
    """Return bytes in words, to a tenth of the unit that fits: B, KiB, MiB or GiB.

    GiB is the largest, so that what a device has and what is needed differ as they are printed.
    """
    if size < 1024:
        return f"{size} B"
    for unit, name in ((1024, "KiB"), (MIB, "MiB")):
        if round(size / unit, 1) < 1024:
            return f"{size / unit:.1f} {name}"
    return f"{size / GIB:.1f} GiB"


def word(size: int) -> str:
    """Return bytes as one word, as `--memory` takes it: `6.0GiB`."""
    return text(size).replace(" ", "")


def part_of(part: int, whole: int) -> str:
    """Return a part of a whole as one word, in the unit of the whole: `6.0/80.0GiB`."""
    number, unit = text(whole).split()
    one = whole / float(number) if float(number) else 1.0
    return f"{part / one:.1f}/{number}{unit}"


def shares(whole: int, *parts: int) -> tuple[str, ...]:
    """Return parts of a whole for people, then what is left of it; as printed they add up.

    All are in the unit of the whole, each off by at most a tenth of it; the last one takes the
    rounding errors of the others.
    """
    number, name = text(whole).split()
    unit = _UNITS[name.lower()]
    left = _tenths(float(number))
    written: list[int] = []
    for part in parts:
        tenths = min(_tenths(part / unit), left)
        left -= tenths
        written.append(tenths)
    if unit == 1:
        return tuple(f"{tenths // 10} {name}" for tenths in (*written, left))
    return tuple(f"{tenths / 10:.1f} {name}" for tenths in (*written, left))


def _tenths(size: float) -> int:
    return round(float(f"{size:.1f}") * 10)
