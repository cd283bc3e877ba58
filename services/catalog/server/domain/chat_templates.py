"""How the rendering of conversations is completed and checked."""

import hashlib

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server.domain import columns, records, sources

_Parameters = tokenizations_pb2.TokenizationParameters


def apply_defaults(parameters: _Parameters, asked: _Parameters, dataset: records.Dataset, *, is_chat: bool) -> None:
    """Turn rendering on for conversations, whose template writes all special tokens, and refuse it for text."""
    if not is_chat:
        if asked.HasField("chat"):
            raise _invalid(
                "chat",
                f"column {parameters.text_column!r} holds text, not conversations; leave chat out, or name the column "
                "that holds them as text_column.",
            )
        return
    wanted = asked.chat.tools_column if asked.chat.HasField("tools_column") else None
    parameters.chat.tools_column = columns.tools(wanted, dataset)
    sources.check_texts({"parameters.chat.template": asked.chat.template})
    if asked.add_special_tokens:
        raise _invalid(
            "add_special_tokens",
            "does not go with conversations, whose template writes the special tokens: they would be there twice. "
            "Leave it out, or write them in a chat.template of your own.",
        )
    parameters.add_special_tokens = False


def as_fields(parameters: _Parameters) -> dict[str, object]:
    """Return the rendering as a flat dict, for comparison."""
    if not parameters.HasField("chat"):
        return {}
    template = parameters.chat.template.encode()
    flat: dict[str, object] = {
        "chat.add_generation_prompt": parameters.chat.add_generation_prompt,
        "chat.tools_column": parameters.chat.tools_column or "none",
    }
    if template:
        # Two templates of some thousand characters are distinguished by a digest, not shown.
        flat["chat.template"] = f"of {len(template)} bytes (sha256 {hashlib.sha256(template).hexdigest()[:12]}…)"
    return flat


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    field = f"parameters.{field}"
    return errors.InvalidArgument(f"{field}: {description}", violations=[errors.FieldViolation(field, description)])
