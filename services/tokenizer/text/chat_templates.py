"""Render conversations to text with a chat template, exactly as transformers' `apply_chat_template` does.

A template is an untrusted program. It runs in the sandbox of transformers, in the worker's task process, whose memory
is limited and whose death costs one task.
"""

import datetime
from typing import Any

import jinja2
import jinja2.meta
import pyarrow as pa
from transformers.utils import chat_template_utils

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.models import loader
from services.tokenizer.text import columns, conversations, nested_values, tools

_FORMS = (("role", "content"), ("role", "tool_calls"), ("from", "value"))
_MOST_CHARACTERS = 64 << 20
"""Maximum number of characters of one rendered conversation."""

_MEND = "Use another template; or fix or remove the conversation"


class ConversationColumn:
    """The column of a raw shard that holds conversations, the counterpart of `columns.TextColumn`."""

    def __init__(
        self,
        name: str,
        chat: tokenizations_pb2.Chat,
        tokenizer: loader.Tokenizer,
        *,
        model: str = "",
        date: str = "",
        counted: tokenizations_pb2.TokenizationStatistics | None = None,
        null_allowed: bool = False,
    ) -> None:
        """`model` is used in messages; `day` (such as 2025-12-31) is for templates that ask for the date.

        The number of conversations with tools is added to `counted`.
        """
        self.name = name
        self._tools_column = chat.tools_column
        self._pretrained = tokenizer.pretrained
        self._null_allowed = null_allowed
        self._prompts = chat.add_generation_prompt
        # A tokenizer may have a separate template for conversations with tools.
        self._plain = _Template(_template(tokenizer, chat.template, model, with_tools=False), date)
        self._with_tools = _Template(_template(tokenizer, chat.template, model, with_tools=True), date)
        self._counted = counted if counted is not None else tokenizations_pb2.TokenizationStatistics()

    @property
    def names(self) -> list[str]:
        """The column, and that of tools if there is one."""
        return list(dict.fromkeys(filter(None, (self.name, self._tools_column))))

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raise if the column is missing or holds something else."""
        kind = columns.existing(schema, self.name, where).type
        if self._tools_column:
            columns.existing(schema, self._tools_column, where)
        if not _may_be_conversations(kind):
            raise columns.wrong_column_error(
                f"Column {self.name!r} of {where} holds {kind}, not conversations: lists of objects with "
                "`role` and `content`, or `from` and `value`. Set text_column to another column."
            )

    def texts(self, rows: pa.RecordBatch, where: str, first_row: int, origin: columns.Origin | None = None) -> pa.Array:
        """Return the conversations rendered, as large strings; null for null, if that is allowed."""
        read = {name: _Values(rows.column(name)) for name in self.names}
        rendered: list[str | None] = []
        for place in range(rows.num_rows):
            if read[self.name].is_null(place):
                if not self._null_allowed:
                    raise columns.null_error(self.name, where, first_row, place, origin)
                rendered.append(None)
                continue
            name = self._tools_column
            try:
                given = tools.read(read[name].at(place)) if name else None
                name = self.name
                rendered.append(self._rendered(conversations.read(read[name].at(place)), given))
            except conversations.Malformed as error:
                at = columns.place(name, where, first_row, place, origin)
                raise columns.wrong_column_error(f"{at}: {error}. {error.fix}, and add the dataset again.") from error
        return pa.array(rendered, pa.large_string())

    def _rendered(self, turns: list[dict[str, Any]], given: list[dict[str, Any]] | None) -> str:
        template = self._plain if given is None else self._with_tools
        if given:
            self._counted.num_with_tools += 1
            self._counted.num_tools_unused += not template.has_tools
        try:
            text: str = self._pretrained.apply_chat_template(
                turns,
                tools=given,
                chat_template=template.text,
                tokenize=False,
                add_generation_prompt=self._prompts,
            )
        # Templates raise errors of their own, and any error that Python raises for a value.
        except Exception as error:
            said = str(error).strip().rstrip(".")[:300] or type(error).__name__
            raise conversations.Malformed(f"the chat template rejects it ({said})", _MEND) from error
        if len(text) > _MOST_CHARACTERS:
            most = _MOST_CHARACTERS >> 20
            raise conversations.Malformed(f"the chat template renders it to more than {most} Mi characters", _MEND)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start].encode("ascii", "backslashreplace").decode()
            raise conversations.Malformed(
                f"it contains an unpaired surrogate, {half}, which is not a character"
            ) from error
        return text


class _Values:
    """The values of a column."""

    def __init__(self, column: pa.Array) -> None:
        self._values = column.to_pylist()
        self._decode = nested_values.decoder(column.type)

    def is_null(self, place: int) -> bool:
        """Return whether a row has no value: null in Arrow, or in JSON."""
        return self._values[place] is None or self._values[place] == "null"

    def at(self, place: int) -> Any:
        """Return the value of a row. Raises MalformedConversation."""
        value = self._values[place]
        try:
            return None if value is None else self._decode(value)
        except (ValueError, RecursionError) as error:
            raise conversations.Malformed(f"it is not valid JSON ({error})", "Correct the row") from error


class _Template:
    """A compiled chat template."""

    def __init__(self, text: str, date: str) -> None:
        self.text = text
        compiled = _compiled(text, date)
        self.has_tools = "tools" in jinja2.meta.find_undeclared_variables(compiled.environment.parse(text))
        """Whether it uses tools."""


def _template(tokenizer: loader.Tokenizer, own: str, model: str, *, with_tools: bool) -> str:
    if own:
        return own
    whose = f"The tokenizer of {model}" if model else "The tokenizer"
    try:
        found: str = tokenizer.pretrained.get_chat_template(tools=[] if with_tools else None)
    except ValueError as error:
        known = tokenizer.pretrained.chat_template
        has = f"chat templates for {', '.join(sorted(known))}, but no default template" if known else "no chat template"
        raise loader.invalid_tokenizer_error(
            f"{whose} has {has}. Specify a chat template (`--chat-template FILE` on the command line, "
            "`chat.template` in a request), or register a model whose tokenizer has one, such as its version "
            "for chats."
        ) from error
    return found


def _compiled(template: str, date: str) -> jinja2.Template:
    try:
        compiled: jinja2.Template = chat_template_utils._compile_jinja_template(template)  # noqa: SLF001  the one place that has the date
    except jinja2.TemplateSyntaxError as error:
        raise errors.InvalidArgument(
            f"The chat template is not valid Jinja: {error.message} (line {error.lineno}). Fix it, and tokenize again.",
            violations=[errors.FieldViolation("parameters.chat.template", f"line {error.lineno}: {error.message}")],
        ) from error
    if date:
        # The date of the worker would render the same rows differently in each attempt.
        day = datetime.datetime.combine(datetime.date.fromisoformat(date), datetime.time())
        compiled.globals["strftime_now"] = day.strftime
    return compiled


def _may_be_conversations(kind: pa.DataType) -> bool:
    """Return whether values of a type may be conversations; JSON is checked row by row."""
    item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    if nested_values.is_json(kind) or (item is not None and nested_values.is_json(item)):
        return True
    fields = {field.name for field in item} if item is not None and pa.types.is_struct(item) else set()
    return any(fields.issuperset(form) for form in _FORMS)
