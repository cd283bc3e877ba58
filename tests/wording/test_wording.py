"""Every change of wording shows in a golden file."""

import difflib

import pytest

from tests.wording import golden


@pytest.mark.parametrize("surface", golden.SURFACES)
def test_texts_are_those_of_the_golden_file(surface: str) -> None:
    path = golden.path(surface)
    expected = path.read_text(encoding="utf-8").splitlines()
    actual = golden.SURFACES[surface]().splitlines()
    assert len(actual) > 10
    diff = "\n".join(difflib.unified_diff(expected, actual, path.name, "now", n=1, lineterm=""))
    if diff:
        pytest.fail(f"{diff}\nIf this is intended, run `make wording`, read the diff and commit it.", pytrace=False)
