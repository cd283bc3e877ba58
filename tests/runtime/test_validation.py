"""The rules in the protos are enforced, in words that people understand."""

import re

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, models_pb2, tasks_pb2, tokenizations_pb2
from polytok.jobs.v1 import leases_pb2, messages_pb2
from polytok.tokenizer.v1 import tasks_pb2 as tokenizer_tasks_pb2
from services.runtime.rpc import regex_descriptions, validation

CONTRACTS = (
    datasets_pb2,
    models_pb2,
    tasks_pb2,
    tokenizations_pb2,
    leases_pb2,
    messages_pb2,
    tokenizer_tasks_pb2,
)


def violations(message: Message) -> dict[str, str]:
    with pytest.raises(errors.InvalidArgument) as caught:
        validation.check(message)
    for violation in caught.value.violations:
        assert f"{violation.field}: {violation.description}" in caught.value.message
    return dict(caught.value.violations)


def values(text: str) -> list[str]:
    """Return the numbers and what is in quotation marks."""
    return re.findall(r"'[^']*'|\d+", text)


def test_what_is_right_passes() -> None:
    message = messages_pb2.StopEvent(job_id="6f1d4c4e-3f4e-4a39-9f9d-1f6f4ed15b7a")
    validation.check(message)


def test_a_name_that_goes_up() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        validation.check(datasets_pb2.CreateDatasetRequest(dataset_id="../etc"))
    found = sorted(caught.value.violations)
    assert [(each.field, values(each.description)) for each in found] == [
        ("dataset", []),
        ("dataset_id", ["1", "63", "'.'", "'_'", "'-'", "'../etc'"]),
        ("dataset_id", ["'..'"]),
    ]


def test_a_resource_name() -> None:
    found = violations(datasets_pb2.GetDatasetRequest(name="docs"))
    assert found.keys() == {"name"}
    assert values(found["name"]) == ["'datasets/{id}'", "1", "63", "'.'", "'_'", "'-'", "'docs'"]


def test_numbers_and_nested_fields() -> None:
    found = violations(
        tokenizations_pb2.CreateTokenizationRequest(
            parent="datasets/docs",
            model="models/gpt2",
            parameters=tokenizations_pb2.TokenizationParameters(max_length=0),
        )
    )
    assert found.keys() == {"parameters.max_length"}
    assert values(found["parameters.max_length"]) == ["1", "524288", "0"]


def test_long_values_are_cut() -> None:
    found = violations(datasets_pb2.GetDatasetRequest(name="x" * 10_000))
    assert len(found["name"]) < 300


def _messages(descriptor: Descriptor) -> list[Descriptor]:
    return [descriptor, *(inner for each in descriptor.nested_types for inner in _messages(each))]


def _patterns() -> list[str]:
    rules = descriptor_pool.Default().FindExtensionByName("buf.validate.field")
    found = set()
    for contract in CONTRACTS:
        for top in contract.DESCRIPTOR.message_types_by_name.values():
            for message in _messages(top):
                for field in message.fields:
                    options = field.GetOptions()
                    found |= set(re.findall(r'pattern: "((?:[^"\\]|\\.)*)"', str(options)))
    assert rules is not None
    return sorted(each.replace("\\\\", "\\") for each in found)


def test_every_pattern_is_described() -> None:
    found = _patterns()
    assert len(found) >= 6
    for pattern in found:
        assert pattern not in regex_descriptions.describe(pattern)
        assert "[a-z" not in regex_descriptions.describe(pattern)


@pytest.mark.parametrize(
    ("pattern", "words", "found"),
    [
        ("^[a-z]{1,32}$", ["lowercase"], ["1", "32"]),
        ("^([a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)?$", ["empty", "lowercase", "digit"], ["1", "32", "'-'"]),
        ("^datasets/(-|[a-z]{1,3})$", ["lowercase"], ["'datasets/(- or {id})'", "1", "3"]),
        ("^a/[a-z]{1,2}(~[0-9]{1,3})?$", ["lowercase", "digit"], ["'a/{id}[~{id}]'", "1", "2", "1", "3"]),
        (r"^(?i)\d+$", [r"^(?i)\d+$"], []),
    ],
)
def test_describe_names_lengths_and_characters(pattern: str, words: list[str], found: list[str]) -> None:
    described = regex_descriptions.describe(pattern)
    assert values(described) == found
    for word in words:
        assert word in described
