"""Draw the speeds of tokenizing as a picture: `python -m benchmarks.picture docs/tokenize-speed.svg`.

Reads `benchmarks/results/tokenize.json`, which `make bench-tokenize` writes.
"""

import json
import pathlib
import sys

import matplotlib as mpl

from benchmarks import report

mpl.use("svg")
from matplotlib import pyplot

_NAMES = {"gpt2": "GPT-2", "phi4": "Phi-4", "llama2": "Llama 2", "wordpiece": "WordPiece"}
_COLOURS = {"datasets.map": "#b8c0cc", "datasets.map, tokenizers 1.0.0rc3": "#8a97a8", "Polytok": "#2f6fde"}


def main(target: str) -> None:
    """Draw the picture."""
    figures = json.loads((report.RESULTS / "tokenize.json").read_text())["figures"]
    speeds = {name: _speeds(figures, name) for name in _NAMES if f"{name}, plain: datasets.map" in figures}
    # Paths instead of text need no font; a fixed salt makes the file reproducible.
    mpl.rcParams |= {"svg.hashsalt": "polytok", "font.size": 11}
    picture, axes = pyplot.subplots(figsize=(8, 0.55 + 1.05 * len(speeds)), layout="constrained")
    height = 0.26
    for row, (label, colour) in enumerate(_COLOURS.items()):
        places = [place + (row - 1) * height for place in range(len(speeds))]
        values = [found[label] for found in speeds.values()]
        bars = axes.barh(places, values, height * 0.9, color=colour, label=label)
        texts = [
            f"{value:.0f} MB/s, {value / found['datasets.map']:.0f} times" if label == "Polytok" else f"{value:.1f}"
            for value, found in zip(values, speeds.values(), strict=True)
        ]
        axes.bar_label(bars, texts, padding=4, fontsize=10)
    axes.set_yticks(range(len(speeds)), [_NAMES[name] for name in speeds])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("text to a published Arrow directory, MB/s on two cores")
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(frameon=False, loc="outside upper center", ncols=3)
    picture.savefig(pathlib.Path(target), metadata={"Date": None, "Creator": None})


def _speeds(figures: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    ours = next(
        value["value"] for key, value in figures.items() if key.startswith(f"{name}, plain: ours, ") and "shards" in key
    )
    found = {label: figures.get(f"{name}, plain: {label}", {"value": 0.0})["value"] for label in _COLOURS}
    return {**found, "Polytok": ours}


if __name__ == "__main__":
    main(*sys.argv[1:])
