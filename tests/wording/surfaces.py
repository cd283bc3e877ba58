"""Extract the texts of each surface from the sources.

Nothing is imported, so that the result is the same on every machine. Texts are listed by module and sorted, so that
moving code changes little but headings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tests.wording import source

_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
_METRICS = {"counter", "gauge", "histogram"}
_WORD = re.compile(r"[A-Za-z]{2}")
_PROSE = re.compile(r"([A-Za-z]|\{\})[^\sA-Za-z]* [^A-Za-z{]*([A-Za-z]|\{\})")
_CODE = re.compile(
    r"\s*(ALTER|ANALYZE|AND|BEGIN|COMMENT|CREATE|DELETE|DROP|EXISTS|GRANT|INSERT|LOCK|NOT|NOTIFY|SELECT|SET|TRUNCATE|"
    r"UPDATE|WHERE|WITH)\b|.*\\p\{"
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")
_VARIABLE = re.compile(r"POLYTOK_(\{.+?\}|[A-Z])+(_[A-Z]+)*")
_ELSEWHERE = "read elsewhere"


def messages() -> str:
    """Return every text that reads as prose; events, metrics, help of the CLI, SQL and patterns do not count."""
    found = {name: sorted(set(_prose(tree))) for name, tree in source.modules().items()}
    for path in sorted((source.ROOT / "protos").rglob("*.proto")):
        texts = re.findall(r'message: "(.+?)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
        found[path.relative_to(source.ROOT).as_posix()] = sorted(set(texts))
    return _sections(found)


def _prose(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and (_is_log_call(node) or _is_metric(node) or _is_pattern(node)):
        return
    shape = source.template(node, named=False)
    if shape is not None and _PROSE.search(shape) and _WORD.search(shape.replace("{}", "")):
        if not _CODE.match(shape):
            yield _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], source.template(node) or "")
        return
    for name, value in ast.iter_fields(node):
        if name not in {"annotation", "returns"}:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _is_docstring(child) and not _is_help(node, child):
                    yield from _prose(child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_help(node: ast.AST, child: ast.AST) -> bool:
    """Return whether a child is a text that `polytok --help` shows."""
    is_help = isinstance(child, ast.keyword) and child.arg == "help"
    return is_help and isinstance(node, ast.Call) and ast.unparse(node.func).startswith("typer.")


def _is_pattern(call: ast.Call) -> bool:
    is_regular = isinstance(call.func, ast.Attribute) and source.last_name(call.func.value) == "re"
    return is_regular or source.last_name(call.func) == "cast"


def log_events() -> str:
    """Return every event that is logged: level, event and fields."""
    return _sections({name: sorted(set(_events(tree))) for name, tree in source.modules().items()})


def _is_log_call(call: ast.Call) -> bool:
    if not (isinstance(call.func, ast.Attribute) and call.func.attr in _LEVELS and call.args):
        return False
    return source.last_name(call.func.value).strip("_") in {"log", "logger"}


def _events(tree: ast.AST) -> Iterator[str]:
    for call in filter(_is_log_call, source.calls(tree)):
        event = source.template(call.args[0]) or f"{{{source.expression(call.args[0])}}}"
        fields = ", ".join(each.arg or "**" for each in call.keywords)
        yield f"{source.last_name(call.func)}: {event}{f' [{fields}]' if fields else ''}"


def metrics() -> str:
    """Return every Prometheus metric: name, labels, type and help."""
    return _sections({name: sorted(_measurements(tree)) for name, tree in source.modules().items()})


def _is_metric(call: ast.Call) -> bool:
    is_metric = source.last_name(call.func).lower() in _METRICS
    return is_metric and len(call.args) > 1 and isinstance(call.args[0], ast.Constant)


def _measurements(tree: ast.AST) -> Iterator[str]:
    for call in filter(_is_metric, source.calls(tree)):
        given = dict(zip(("name", "documentation", "labels"), call.args, strict=False))
        given |= {each.arg: each.value for each in call.keywords if each.arg}
        kind = source.last_name(call.func).lower()
        name = f"polytok_{ast.literal_eval(given['name']).removeprefix('polytok_')}"
        labels = ", ".join(ast.literal_eval(given["labels"])) if "labels" in given else ""
        total = "_total" if kind == "counter" else ""
        yield f"{name}{total}{{{labels}}} {kind}: {source.template(given['documentation'])}"


def settings() -> str:
    """Return every environment variable: by class, with type, default, bounds and description."""
    nodes = [node for tree in source.modules().values() for node in ast.walk(tree)]
    classes = _settings_classes(node for node in nodes if isinstance(node, ast.ClassDef))
    found: dict[str, set[str]] = {node.name: set() for node in sorted(classes, key=lambda node: node.name)}
    for node in classes:
        found[node.name] |= set(_variables(node, classes))
    listed = {line.partition(":")[0] for lines in found.values() for line in lines}
    others = {name for node in nodes for name in _names(node)} - listed
    return _sections({**{name: sorted(lines) for name, lines in found.items()}, _ELSEWHERE: sorted(others)})


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the name of the environment variable that a text is, if it is one."""
    name = source.template(node)
    if name and _VARIABLE.fullmatch(name):
        yield name


def _settings_classes(classes: Iterable[ast.ClassDef]) -> list[ast.ClassDef]:
    """Return the classes that derive from pydantic's, whose bases come before them."""
    left, found, names = list(classes), [], {"BaseSettings"}
    while new := [node for node in left if names & _bases(node) and not node.decorator_list]:
        left = [node for node in left if node not in new]
        found += new
        names |= {node.name for node in new}
    return found


def _bases(node: ast.ClassDef) -> set[str]:
    return {source.last_name(base) for base in node.bases}


def _variables(node: ast.ClassDef, classes: Sequence[ast.ClassDef]) -> Iterator[str]:
    """Yield the variables of a class: also those that it inherits, where it sets the prefix."""
    ancestors, names = [node], _bases(node)
    for each in reversed(classes):
        if each.name in names and each is not node:
            ancestors.append(each)
            names |= _bases(each)
    prefixes = [prefix for each in ancestors if (prefix := _prefix(each))]
    for each in ancestors if _prefix(node) else [node]:
        if prefixes:
            yield from _fields(each, prefixes[0])


def _prefix(node: ast.ClassDef) -> str:
    for call in (call for statement in node.body for call in source.calls(statement)):
        for keyword in call.keywords:
            if source.last_name(call.func) == "SettingsConfigDict" and keyword.arg == "env_prefix":
                return str(ast.literal_eval(keyword.value))
    return ""


def _fields(node: ast.ClassDef, prefix: str) -> Iterator[str]:
    for field, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            facts = _facts(field.value)
            name = facts.pop("validation_alias", "").strip("'\"") or f"{prefix}{field.target.id}".upper()
            default = facts.pop("default", "...")
            start = "" if default == "..." else f" = {default}"
            bounds = "".join(f", {key}={value}" for key, value in facts.items())
            text = source.template(after.value) if isinstance(after, ast.Expr) else None
            description = " ".join((text or "no description").split())
            yield f"{name}: {source.expression(field.annotation)}{start}{bounds}\n    {description}"


def _facts(value: ast.expr | None) -> dict[str, str]:
    """Return the default and the bounds of a field."""
    if isinstance(value, ast.Call):
        return {each.arg: source.expression(each.value) for each in value.keywords if each.arg and each.arg != "repr"}
    return {"default": source.expression(value)} if value else {}


def _sections(found: Mapping[str, Iterable[str]]) -> str:
    """Return the texts under a heading for each module that has some."""
    sections = {heading: list(texts) for heading, texts in found.items()}
    return "\n".join("\n".join((f"## {heading}", *texts, "")) for heading, texts in sections.items() if texts)
