"""`python -m tests.wording`: write the golden files."""

from tests.wording import golden

for surface, extract in golden.SURFACES.items():
    golden.path(surface).write_text(extract(), encoding="utf-8")
