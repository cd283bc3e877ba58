"""Sources that no worker could read are refused before anything is made of them."""

import pytest

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import DatasetSource, FileSource
from services.catalog.server.domain import sources
from tests.support.messages import check_names


def source(**options):
    return DatasetSource(files=FileSource(uris=["/a"], **options))


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": "\t"},
        {"delimiter": "|", "format": FileSource.FORMAT_CSV},
        {"json_field": "rows", "format": FileSource.FORMAT_JSON},
        {"text_rows": FileSource.TEXT_ROWS_FILE},
        {"text_rows": FileSource.TEXT_ROWS_SEPARATED, "text_separator": "\n", "format": FileSource.FORMAT_TEXT},
    ],
)
def test_options_of_formats(options):
    sources.check_dataset(source(**options))


@pytest.mark.parametrize(
    ("options", "field", "name"),
    [
        ({"delimiter": '"'}, "delimiter", "'\"'"),
        ({"delimiter": "\n"}, "delimiter", r"'\n'"),
        ({"delimiter": "é"}, "delimiter", "'é'"),
        ({"delimiter": ",", "format": FileSource.FORMAT_JSON}, "delimiter", "CSV"),
        ({"json_field": "rows", "format": FileSource.FORMAT_JSONL}, "json_field", "JSON"),
        ({"text_rows": 1, "format": FileSource.FORMAT_CSV}, "text_rows", "text files"),
        ({"text_rows": 2, "text_separator": "x"}, "text_separator", "text_rows"),
        ({"text_rows": 3, "text_separator": "\0"}, "text_separator", "NUL"),
        ({"json_field": "\0"}, "json_field", "NUL"),
    ],
)
def test_invalid_options(options, field, name):
    with pytest.raises(errors.InvalidArgument) as caught:
        sources.check_dataset(source(**options))
    assert [each.field for each in caught.value.violations] == [f"dataset.source.files.{field}"]
    check_names(caught.value.message, f"dataset.source.files.{field}", name)
