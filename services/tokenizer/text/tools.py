"""The tools for a conversation's template: JSON schemas in a column, as in TRL and ms-swift."""

import json
from typing import Any

from services.tokenizer.text.conversations import Malformed


def read(value: Any) -> list[dict[str, Any]] | None:
    """Return the schemas of a row, which may be JSON strings, as a whole or each; None without any."""
    found = _parsed(value)
    if found is None or found == "":
        return None
    if not isinstance(found, list):
        raise Malformed(f"tools must be a list of JSON schemas, not {_kind(found)}", _MEND)
    schemas = [_parsed(each) for each in found]
    for place, schema in enumerate(schemas, start=1):
        if not isinstance(schema, dict):
            raise Malformed(f"tool {place} of {len(schemas)} is {_kind(schema)}, not a JSON schema", _MEND)
    return schemas


_MEND = "Correct the row, or tokenize without tools (`--no-tools`)"


def _parsed(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the text of the tools is not valid JSON ({error})", _MEND) from error


def _kind(value: Any) -> str:
    kinds = {dict: "an object", str: "a string", list: "a list", type(None): "null", bool: "a boolean"}
    return kinds.get(type(value), "a number")
