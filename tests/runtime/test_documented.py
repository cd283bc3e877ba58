"""What can be set is what deploy/README.md says can be set."""

import importlib
import pathlib
import re
from collections.abc import Iterator

from services.runtime.settings import Settings

PAGE = pathlib.Path(__file__).parents[2] / "deploy/README.md"
MODULES = (
    "services.runtime.settings",
    "services.runtime.source_allowlist",
    "services.catalog.server.settings",
    "services.tokenizer.settings",
    "services.extractor.worker.worker",
    "services.extractor.server.settings",
    "services.trainer.server.settings",
    "services.trainer.worker.worker",
    "services.trainer.worker.worker_settings",
)


def _classes(of: type[Settings]) -> Iterator[type[Settings]]:
    for each in of.__subclasses__():
        yield each
        yield from _classes(each)


def _documented() -> set[str]:
    """Return the variables of the page's tables.

    `_REST` in a row continues the row's first name, from wherever it fits.
    """
    found: set[str] = set()
    for row in PAGE.read_text().splitlines():
        names = re.findall(r"`([A-Z_]+)`", row.split("|")[1]) if row.startswith("|") else []
        for name in names:
            if name.startswith("_"):
                words = names[0].split("_")
                found |= {"_".join(words[:count]) + name for count in range(1, len(words))}
            else:
                found.add(name)
    return found


def test_every_setting_is_documented() -> None:
    for module in MODULES:
        importlib.import_module(module)
    variables = {
        (str(field.validation_alias or "") or f"{each.model_config.get('env_prefix', '')}{name}").upper()
        for each in _classes(Settings)
        if each.__module__ in MODULES
        for name, field in each.model_fields.items()
        if str(each.model_config.get("env_prefix", "")).startswith("POLYTOK_")
    }
    assert len(variables) > 40
    assert sorted(variables - _documented()) == []
