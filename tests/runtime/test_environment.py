"""Misspelt environment variables are refused."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from polytok import environment, errors
from tests.support.messages import check_names
from tests.wording import surfaces

CLI = str(pathlib.Path(sys.executable).with_name("polytok"))


def test_the_list_is_complete() -> None:
    listed = set(re.findall(r"^POLYTOK_[A-Z0-9_]+", surfaces.settings(), re.MULTILINE))
    # Its name is built from that of the service.
    assert listed | {"POLYTOK_TOKENIZER_ADDRESS"} == environment.VARIABLES


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("POLYTOK_CATLOG_ADDRESS", "POLYTOK_CATALOG_ADDRESS"),
        ("POLYTOK_STORAGE_ROOTS", "POLYTOK_STORAGE_ROOT"),
        ("POLYTOK_DATABASE_URI", "POLYTOK_DATABASE_URL"),
        ("POLYTOK_LOGLEVEL", "POLYTOK_LOG_LEVEL"),
        ("POLYTOK_SOURCE_ALLOW_LIST", "POLYTOK_SOURCE_ALLOWLIST"),
    ],
)
def test_a_misspelt_name(wrong: str, right: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        environment.check({wrong: "x"})
    assert caught.value.violations[0].field == wrong
    check_names(caught.value.message, wrong, right)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "POLYTOK_HOME",
        "POLYTOK_SOMETHING_ELSE",
        "POLYTOK_CATALOG_SERVICE_HOST",
        "POLYTOK_CATALOG_SERVICE_PORT_GRPC",
        "POLYTOK_GRPC_PORT_50051_TCP_ADDR",
        "POLYTOK_CATALOG_PORT",
    ],
)
def test_what_may_be_set(name: str) -> None:
    environment.check({name: "x"})


@pytest.mark.parametrize("arguments", [["-m", "services.catalog", "serve"], ["-m", "services.embedded", "up"], [CLI]])
def test_programs_refuse_it(arguments: list[str], tmp_path: pathlib.Path) -> None:
    given = {**os.environ, "POLYTOK_HOME": str(tmp_path / "home"), "POLYTOK_STORAGE_ROOTS": "/data"}
    more = ["status"] if arguments == [CLI] else []
    done = subprocess.run([sys.executable, *arguments, *more], env=given, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    check_names(done.stderr, "POLYTOK_STORAGE_ROOTS", "POLYTOK_STORAGE_ROOT")
    assert "Traceback" not in done.stderr
