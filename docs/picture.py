"""Draws what a terminal showed: `tmux capture-pane -e -p | python docs/picture.py "make run" > docs/make-run.svg`."""

import io
import re
import sys

from rich.console import Console
from rich.text import Text


def draw(ansi: str, title: str) -> str:
    """Return the SVG of a terminal's screen, given with its escape sequences."""
    lines = ansi.rstrip().splitlines()
    text = Text.from_ansi("\n".join(line.rstrip() for line in lines))
    width = max(line.cell_len for line in text.split("\n"))
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(text)
    # The reader's own monospaced font serves; a page should not fetch one for a picture.
    return re.sub(r"@font-face\s*{[^}]*}", "", console.export_svg(title=title))


if __name__ == "__main__":
    sys.stdout.write(draw(sys.stdin.read(), sys.argv[1]))
