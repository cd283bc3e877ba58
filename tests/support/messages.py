"""Compare what a message names and counts, whatever its wording."""

import re


def words(message: str) -> set[str]:
    """Return the words, names and numbers of a message, without the quotes and punctuation around them."""
    return {word.strip("\"'`.,:;!?…()[]") for word in message.split()}


def check_names(message: str, *values: object) -> None:
    """Check that a message names each of the values, as whole words: `3` is in "line 3", not in "line 13" or "1.3"."""
    missing = [value for value in map(str, values) if not re.search(_whole(value), message)]
    assert not missing, f"{missing} not in {message!r}"


def _whole(value: str) -> str:
    before = r"(?<!\w)(?<!\d[.,])" if re.match(r"\w", value) else ""
    after = r"(?!\w)(?![.,]\d)" if re.search(r"\w\Z", value) else ""
    return before + re.escape(value) + after
