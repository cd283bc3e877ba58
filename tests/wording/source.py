"""Read texts out of the sources, where the values that go into a text stand as `{expression}`."""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module by its name, without generated code."""
    found = {}
    for package in ("polytok", "services"):
        for path in (ROOT / package).rglob("*.py"):
            if "_pb2" not in path.name:
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_bytes())
    return dict(sorted(found.items()))


def template(node: ast.AST, *, named: bool = True) -> str | None:
    """Return the text that a literal, an f-string or a sum of them writes out, None for anything else.

    Without `named` every value stands as `{}`.
    """
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part, named=named) or "" for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _placeholder(node.value, node.format_spec) if named else "{}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [template(side, named=named) for side in (node.left, node.right)]
        if sides != [None, None]:
            values = [_placeholder(side) if named else "{}" for side in (node.left, node.right)]
            return "".join(value if side is None else side for side, value in zip(sides, values, strict=True))
    return None


def _placeholder(node: ast.expr, format_spec: ast.expr | None = None) -> str:
    spec = template(format_spec) if format_spec else None
    return f"{{{expression(node)}{f':{spec}' if spec else ''}}}"


def expression(node: ast.expr) -> str:
    """Return the source of an expression in the one form that all versions of Python give."""
    return ast.unparse(_Verbatim().visit(ast.parse(ast.unparse(node), mode="eval")))


class _Verbatim(ast.NodeTransformer):
    """Replace f-strings by names that read like them, as versions of Python choose different quotation marks."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return ast.Name(f'f"{template(node)}"', ast.Load())


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name: `_log` of `self._log`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield every call in a tree."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))
