"""What is wrong with a value that was given, in plain words. Pure."""

import re

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}

_TYPES = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_RANGE = re.compile(r"Expected `(?:int|float)` (>=|<=|>|<) (\S+)")
_LENGTH = re.compile(r"Expected `(str|array|object)` of length (>=|<=|)\s?(\d+)")
_PATTERN = re.compile(r"Expected `str` matching regex (.+)", re.DOTALL)
_CHOICE = re.compile(r"Invalid enum value (.+)", re.DOTALL)
_FIELD = re.compile(r"Object (contains unknown|missing required) field `([^`]*)`")
_PLACE = re.compile(r" - at `(?:(key)` in `)?\$\.?([^`]*)`$")

_RANGES = {">=": "{} or more", "<=": "{} or less", ">": "more than {}", "<": "less than {}"}
_LENGTHS = {">=": "at least ", "<=": "at most ", "": ""}
_PARTS = {"str": "character", "array": "item", "object": "field"}


def in_words(error: Exception) -> str:
    """Return why a value is not valid, from the error of what has read it."""
    text = str(error)
    found = _PLACE.search(text)
    said, place = (text, "") if found is None else (text[: found.start()], _named(found))
    if (field := _FIELD.fullmatch(said)) is not None:
        beyond = f" in {place}" if place else ""
        if field[1].startswith("missing"):
            return f"the field {field[2]!r} is missing{beyond}"
        return f"there is no field {field[2]!r}{beyond}"
    wanted = _wanted(said)
    return text if wanted is None else f"{place or 'this'} {wanted}"


def _named(place: re.Match[str]) -> str:
    """Return a place as people write it: the items of a list have no number beyond theirs."""
    path = place[2].replace("[...]", ".*").removeprefix(".")
    return f"a name in {path or 'this'}" if place[1] else path


def _wanted(said: str) -> str | None:
    """Return what a value must be; None for an error of another form."""
    if (types := _TYPES.fullmatch(said)) is not None:
        kinds = [_KINDS.get(each, each) for each in types[1].split(" | ")]
        last = kinds.pop()
        wanted = f"{', '.join(kinds)} or {last}" if kinds else last
        return f"must be {wanted}, and is {_KINDS.get(types[2], types[2])}"
    if (bound := _RANGE.fullmatch(said)) is not None:
        number = bound[2].removesuffix(".0")
        return f"must be {_RANGES[bound[1]].format(number)}"
    if (length := _LENGTH.fullmatch(said)) is not None:
        part = _PARTS[length[1]] + ("" if length[3] == "1" else "s")
        return f"must have {_LENGTHS[length[2]]}{length[3]} {part}"
    if (pattern := _PATTERN.fullmatch(said)) is not None:
        return f"must match the pattern {pattern[1]}"
    if (choice := _CHOICE.fullmatch(said)) is not None:
        return f"can't be {choice[1]}"
    return None
