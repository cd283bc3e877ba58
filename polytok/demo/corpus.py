"""A real corpus that every Python installation contains: its documentation, docstrings and sources."""

import ast
import importlib
import json
import pathlib
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from typing import NamedTuple

DOCUMENT_CHARACTERS = 3000
"""A source file is split before a definition once a document has this length; nothing is lost."""


class Document(NamedTuple):
    """A row of the corpus."""

    text: str
    kind: str
    origin: str


def write(path: pathlib.Path, report: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Write the corpus as JSON lines, atomically; `report(done, total)` is called after each file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    sources = list(source_files())
    with partial.open("w", encoding="utf-8") as file:
        for document in _topics():
            file.write(json.dumps(document._asdict(), ensure_ascii=False) + "\n")
        for done, source in enumerate(sources, start=1):
            for document in _documents(source):
                file.write(json.dumps(document._asdict(), ensure_ascii=False) + "\n")
            report(done, len(sources))
    partial.replace(path)


def texts(path: pathlib.Path, every: int = 1) -> Iterator[str]:
    """Yield the text of one in `every` documents of a written corpus."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number % every == 0:
                yield json.loads(line)["text"]


def source_files() -> Iterator[pathlib.Path]:
    """Yield the sources of the standard library, without installed packages, in a stable order."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not {"site-packages", "dist-packages", "__pycache__"} & set(path.relative_to(root).parts):
            yield path


def _topics() -> Iterator[Document]:
    """Yield the language reference as `help()` shows it."""
    module = importlib.import_module("pydoc_data.topics")
    for name, text in sorted(module.topics.items()):
        if text.strip():
            yield Document(text.strip("\n") + "\n", "topic", name)


def _documents(path: pathlib.Path) -> Iterator[Document]:
    """Yield the docstrings of a source file, then the file itself.

    Yields nothing if it is not valid Python in UTF-8, as some tests of Python are.
    """
    module = ".".join(path.relative_to(sysconfig.get_path("stdlib")).with_suffix("").parts)
    try:
        with path.open("rb") as file:
            if tokenize.detect_encoding(file.readline)[0] not in {"utf-8", "utf-8-sig"}:
                return
        source = path.read_text(encoding="utf-8-sig")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for name, text in _docstrings(tree, module):
        yield Document(text, "docstring", name)
    for text in cut(source, tree):
        yield Document(text, "source", module)


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield every docstring in and below a node, with the dotted name of its object."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and text.strip():
            yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")


def cut(source: str, tree: ast.Module) -> Iterator[str]:
    """Split a source before definitions into pieces of about DOCUMENT_CHARACTERS."""
    lines = source.splitlines(keepends=True)
    piece: list[str] = []
    size = 0
    starts = set(_definition_lines(tree))
    for number, line in enumerate(lines, start=1):
        if size >= DOCUMENT_CHARACTERS and number in starts:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if "".join(piece).strip():
        yield "".join(piece)


def _definition_lines(tree: ast.Module) -> Iterator[int]:
    """Yield the first lines, including decorators, of the functions, classes and methods of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield _first_line(node)
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield _first_line(child)


def _first_line(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
