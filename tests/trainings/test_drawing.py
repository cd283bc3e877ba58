"""`polytok train plot` draws what a training measured, to a picture and in the terminal."""

import json
import pathlib
import re

import pytest

from polytok.cli import main
from tests.trainings import samples
from tests.trainings.training_harness import TrainingHarness

BRAILLE = re.compile("[\u2801-\u28ff]")
TITLES = ["loss", "L0", "explained variance", "latents by firing frequency"]


async def test_the_curves_of_a_training(
    harness: TrainingHarness, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow, which matplotlib brings, reads the picture")
    await harness.create("drawn", saes=[samples.sae(), samples.sae(samples.EARLIER, name="early")], evaluate_every=20)
    await harness.ready("drawn")
    for command in ("train", "training"):
        capsys.readouterr()
        assert main.run([command, "plot", "drawn"]) == 0
        drawn = capsys.readouterr().out
        assert [title for title in TITLES if title in drawn] == TITLES
        assert len(BRAILLE.findall(drawn)) > 50
        assert f"{samples.HOOK}-topk" in drawn
        assert "early" in drawn
    picture = tmp_path / "curves.png"
    assert main.run(["train", "plot", "drawn", "--png", str(picture)]) == 0
    assert str(picture) in capsys.readouterr().out.replace("\n", "")
    with image.open(picture) as opened:
        assert opened.format == "PNG"
        # Axes and curves, and no empty page.
        assert min(opened.size) > 300
        assert len(opened.convert("RGB").getcolors(1 << 24)) > 10
    assert main.run(["train", "plot", "drawn", "--sae", "early", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "trainings/drawn", "panels": TITLES}
