"""Conversations to text, through a chat template, exactly as `apply_chat_template` of transformers renders them.

A template is a program of its author's. It runs in the sandbox of transformers, in the worker's child process, whose
memory has a limit and whose death costs one task.
"""

import datetime
from typing import Any

import jinja2
import pyarrow as pa
from transformers.utils import chat_template_utils

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.models import loading
from services.tokenizer.text import columns, conversations

_FORMS = (("role", "content"), ("from", "value"))
_MOST_CHARACTERS = 64 << 20
"""As many of one conversation, rendered, are encoded at once."""

_MEND = "Take another template; or mend or remove the conversation"


class Conversations:
    """The column of a raw shard that holds conversations, as `columns.Texts` has one of text."""

    def __init__(
        self, name: str, chat: tokenizations_pb2.Chat, tokenizer: loading.Tokenizer, *, model: str = "", date: str = ""
    ) -> None:
        """Takes the model's name for messages, and the day (as 2025-12-31) for templates that ask for one."""
        self.name = name
        self._pretrained = tokenizer.pretrained
        self._prompts = chat.add_generation_prompt
        self._template = _template(tokenizer, chat.template, model)
        _compile(self._template, date)

    def check(self, schema: pa.Schema, where: str) -> None:
        """Refuses a column that is not there or holds something else."""
        kind = columns.existing(schema, self.name, where).type
        fields = _fields(kind)
        if not any(fields.issuperset(form) for form in _FORMS):
            raise columns.wrong(
                f"Column {self.name!r} of {where} holds {kind}, not conversations: lists of objects with `role` and "
                "`content`, or `from` and `value`. Name another as text_column."
            )

    def texts(self, column: pa.Array, where: str, first_row: int, origin: columns.Origin | None = None) -> pa.Array:
        """Returns the conversations rendered, as large strings."""
        rendered = []
        for place, turns in enumerate(column.to_pylist()):
            try:
                rendered.append(self._rendered(conversations.read(turns)))
            except conversations.Malformed as error:
                at = columns.place(self.name, where, first_row, place, origin)
                raise columns.wrong(f"{at}: {error}. {error.mend}, and add the dataset again.") from error
        return pa.array(rendered, pa.large_string())

    def _rendered(self, turns: list[dict[str, Any]]) -> str:
        try:
            text: str = self._pretrained.apply_chat_template(
                turns, chat_template=self._template, tokenize=False, add_generation_prompt=self._prompts
            )
        # Templates raise errors of their own, and do with values whatever Python refuses.
        except Exception as error:
            said = str(error).strip().rstrip(".")[:300] or type(error).__name__
            raise conversations.Malformed(f"the chat template does not take it ({said})", _MEND) from error
        if len(text) > _MOST_CHARACTERS:
            most = _MOST_CHARACTERS >> 20
            raise conversations.Malformed(f"the chat template makes more than {most} Mi characters of it", _MEND)
        return text


def _template(tokenizer: loading.Tokenizer, own: str, model: str) -> str:
    if own:
        return own
    whose = f"The tokenizer of {model}" if model else "The tokenizer"
    try:
        found: str = tokenizer.pretrained.get_chat_template()
    except ValueError as error:
        known = tokenizer.pretrained.chat_template
        has = (
            f"chat templates for {', '.join(sorted(known))}, none of them the default" if known else "no chat template"
        )
        raise loading.invalid(
            f"{whose} has {has}. Give one of your own (`--chat-template FILE` on the command line, `chat.template` in "
            "a request), or register a model whose tokenizer has one, such as its version for chats."
        ) from error
    return found


def _compile(template: str, date: str) -> None:
    try:
        compiled = chat_template_utils._compile_jinja_template(template)  # noqa: SLF001  the one place that has the date
    except jinja2.TemplateSyntaxError as error:
        raise errors.InvalidArgument(
            f"The chat template is not one that Jinja understands: {error.message} (line {error.lineno}). Mend it, and "
            "tokenize again.",
            violations=[errors.FieldViolation("parameters.chat.template", f"line {error.lineno}: {error.message}")],
        ) from error
    if date:
        # The day of the worker would make another text of the same rows, attempt by attempt.
        day = datetime.datetime.combine(datetime.date.fromisoformat(date), datetime.time())
        compiled.globals["strftime_now"] = day.strftime


def _fields(kind: pa.DataType) -> set[str]:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return set()
    return {field.name for field in kind.value_type}
