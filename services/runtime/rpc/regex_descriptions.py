"""Describe in words what a regular expression of our contracts allows.

The contracts use a small subset of the language: literals, classes such as `[a-z0-9._-]`, `{m}`, `{m,n}`, `?` and
groups. A pattern with anything else is shown as it is.
"""

import functools
import re

_TOKEN = re.compile(
    r"\[(?P<set>[^\]]+)\](?:\{(?P<low>\d+)(?:,(?P<high>\d+))?\})?|\\(?P<escaped>.)|(?P<literal>[\w/.~:,-])"
)
_WORDS = {"a-z": "a lowercase letter", "A-Z": "an uppercase letter", "0-9": "a digit", "a-f": "a letter from a to f"}
_RANGE = re.compile(r"a-z|a-f|A-Z|0-9|.")


@functools.cache
def describe(pattern: str) -> str:
    """Return a phrase that follows `must`, such as `be 1 to 63 characters, each a lowercase letter or a digit`."""
    body = pattern.removeprefix("^").removesuffix("$")
    try:
        optional = body.startswith("(") and body.endswith(")?") and _closing(body) == len(body) - 2
        shape, slots = _shape(body[1:-2] if optional else body)
    except ValueError:
        return f"match the pattern {pattern}"
    empty = "be empty or " if optional else ""
    if shape == "{id}":
        return f"{empty}be {slots[0]}"
    distinct = list(dict.fromkeys(slots))
    if len(distinct) == 1:
        return f"{empty}look like '{shape}', where {{id}} is {distinct[0]}"
    # An optional part comes last, and so does its rule.
    return f"{empty}look like '{shape}', where {{id}} is {distinct[0]}; the last one {distinct[-1]}"


def _closing(text: str) -> int:
    depth = 0
    for index, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return index
    raise ValueError("unbalanced")


def _shape(text: str) -> tuple[str, list[str]]:
    shape = ""
    slots: list[str] = []
    run: list[tuple[str, int, int]] = []
    position = 0

    def end_run() -> str:
        if not run:
            return ""
        slots.append(_slot(run))
        run.clear()
        return "{id}"

    while position < len(text):
        if text[position] == "(":
            piece, found, length, is_part_of_run = _group(text[position:])
            if is_part_of_run and run:
                run.extend(_classes(text[position + 1 : position + length - 2]))
            else:
                shape += end_run() + piece
                slots += found
            position += length
            continue
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError("outside the supported subset")
        position = token.end()
        if token["set"]:
            run.append((token["set"], int(token["low"] or 1), int(token["high"] or token["low"] or 1)))
        else:
            shape += end_run() + (token["escaped"] or token["literal"])
    return shape + end_run(), slots


def _group(text: str) -> tuple[str, list[str], int, bool]:
    """Return the first group of the text: its shape, slots, length, and whether it is followed by a run only."""
    end = _closing(text)
    inside = text[1:end]
    optional = text[end + 1 : end + 2] == "?"
    length = end + 1 + optional
    if optional and inside.startswith("[") and "(" not in inside:
        return "", [], length, True
    shapes, slots = [], []
    for alternative in inside.split("|"):
        shape, found = _shape(alternative)
        shapes.append(shape)
        slots += found
    shape = " or ".join(shapes) if len(shapes) == 1 else f"({' or '.join(shapes)})"
    return (f"[{shape}]" if optional else shape), slots, length, False


def _classes(text: str) -> list[tuple[str, int, int]]:
    return [(each["set"], 0, int(each["high"] or each["low"] or 1)) for each in _TOKEN.finditer(text) if each["set"]]


def _slot(run: list[tuple[str, int, int]]) -> str:
    low = sum(each[1] for each in run)
    high = sum(each[2] for each in run)
    everything = list(dict.fromkeys(part for each in run for part in _RANGE.findall(each[0])))
    size = f"{low}" if low == high else f"{low} to {high}"
    phrase = f"{size} characters, each {_list(everything)}"
    first, last = _RANGE.findall(run[0][0]), _RANGE.findall(run[-1][0])
    if set(first) != set(everything):
        ends = "the first and the last" if last == first and len(run) > 1 else "the first"
        phrase += f", {ends} {_list(first)}"
    return phrase


def _list(parts: list[str]) -> str:
    words = [_WORDS.get(part, f"'{part}'") for part in parts]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
