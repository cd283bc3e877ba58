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


def test_what_is_right_passes() -> None:
    message = messages_pb2.StopEvent(job_id="6f1d4c4e-3f4e-4a39-9f9d-1f6f4ed15b7a")
    validation.check(message)
    assert validation.is_valid(message)


def test_a_name_that_goes_up() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        validation.check(datasets_pb2.CreateDatasetRequest(dataset_id="../etc"))
    assert set(caught.value.violations) == {
        errors.FieldViolation(
            "dataset_id",
            "must be 1 to 63 characters, each a lowercase letter, a digit, '.', '_' or '-', "
            "the first and the last a lowercase letter or a digit, not '../etc'",
        ),
        errors.FieldViolation("dataset_id", "must not contain '..'"),
        errors.FieldViolation("dataset", "is required"),
    }


def test_a_resource_name() -> None:
    found = violations(datasets_pb2.GetDatasetRequest(name="docs"))
    assert found == {
        "name": "must look like 'datasets/{id}', where {id} is 1 to 63 characters, each a lowercase letter, a digit, "
        "'.', '_' or '-', the first a lowercase letter or a digit, not 'docs'"
    }


def test_numbers_and_nested_fields() -> None:
    found = violations(
        tokenizations_pb2.CreateTokenizationRequest(
            parent="datasets/docs",
            model="models/gpt2",
            parameters=tokenizations_pb2.TokenizationParameters(max_length=0),
        )
    )
    assert found == {
        "parameters.max_length": "must be greater than or equal to 1 and less than or equal to 524288, not 0"
    }


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


def test_every_pattern_of_the_contracts_is_told_in_words() -> None:
    found = _patterns()
    assert len(found) >= 6
    for pattern in found:
        assert "the pattern" not in regex_descriptions.describe(pattern)
        assert "[a-z" not in regex_descriptions.describe(pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("^[a-z]{1,32}$", "be 1 to 32 characters, each a lowercase letter"),
        (
            "^([a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)?$",
            "be empty or be 1 to 32 characters, each a lowercase letter, a digit or '-', "
            "the first and the last a lowercase letter or a digit",
        ),
        (
            "^datasets/(-|[a-z]{1,3})$",
            "look like 'datasets/(- or {id})', where {id} is 1 to 3 characters, each a lowercase letter",
        ),
        (
            "^a/[a-z]{1,2}(~[0-9]{1,3})?$",
            "look like 'a/{id}[~{id}]', where {id} is 1 to 2 characters, each a lowercase letter; "
            "the last one 1 to 3 characters, each a digit",
        ),
        (r"^(?i)\d+$", r"match the pattern ^(?i)\d+$"),
    ],
)
def test_words(pattern: str, words: str) -> None:
    assert regex_descriptions.describe(pattern) == words
