"""Tokenizers are loaded as transformers loads them, and what cannot be loaded is explained."""

import json
import pathlib
import shutil

import pytest
import transformers

from polytok import errors
from polytok.tokenizer.v1 import tasks_pb2
from services.tokenizer.models import loader
from tests.support.messages import words


@pytest.fixture
def copy(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a copy of the SentencePiece-style tokenizer, to be changed."""
    return shutil.copytree(folders["sentencepiece"], tmp_path / "copy")


def change(path: pathlib.Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_facts_equal_transformers(folder: pathlib.Path, tokenizer: loader.Tokenizer) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == len(plain)
    assert tokenizer.class_name == type(plain).__name__
    assert {role: text for role, text, _ in tokenizer.special_tokens} == plain.special_tokens_map
    assert {token for _, _, token in tokenizer.special_tokens} == set(plain.all_special_ids)


def test_added_tokens_count(copy: pathlib.Path) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(copy)
    before = len(plain)
    plain.add_tokens(["<|one|>", "<|two|>"])
    plain.save_pretrained(copy)
    assert loader.load(copy).vocab_size == before + 2


def test_unknown_token(folders: dict[str, pathlib.Path]) -> None:
    found = {name: loader.load(folder).unknown for name, folder in folders.items()}
    assert found == {"byte_level": None, "sentencepiece": 0, "wordpiece": 0}


def test_the_fingerprint_is_of_the_content(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = loader.load(folder).fingerprint
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    # Saved again by transformers, laid out again by hand, with a truncation of its own: the same ids for every text.
    transformers.AutoTokenizer.from_pretrained(elsewhere).save_pretrained(elsewhere)
    path = elsewhere / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(content, indent=7))
    assert loader.load(elsewhere).fingerprint == before


def test_the_fingerprint_changes_with_what_decides_ids(copy: pathlib.Path) -> None:
    fingerprints = [loader.load(copy).fingerprint]
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (copy / "tokenizer.json").write_text(json.dumps(content))
    fingerprints.append(loader.load(copy).fingerprint)
    change(copy / "tokenizer.json", normalizer={"type": "NFC"})
    fingerprints.append(loader.load(copy).fingerprint)
    change(copy / "tokenizer_config.json", bos_token="</s>")
    fingerprints.append(loader.load(copy).fingerprint)
    assert len(set(fingerprints)) == 4
    assert all(len(fingerprint) == 64 for fingerprint in fingerprints)


def test_a_tokenizer_stays_loaded(copy: pathlib.Path) -> None:
    tokenizers = loader.TokenizerCache(1)
    reference = tasks_pb2.TokenizerReference(repo_id=str(copy))
    reference.fingerprint = tokenizers.get(reference).fingerprint
    shutil.rmtree(copy)
    assert tokenizers.get(reference) is tokenizers.get(reference)


def test_the_least_recently_used_is_dropped(folders: dict[str, pathlib.Path]) -> None:
    tokenizers = loader.TokenizerCache(2)
    references = {}
    for name, folder in folders.items():
        references[name] = tasks_pb2.TokenizerReference(
            repo_id=str(folder), fingerprint=loader.load(folder).fingerprint
        )
    first, second, third = references
    loaded = tokenizers.get(references[first])
    other = tokenizers.get(references[second])
    assert tokenizers.get(references[first]) is loaded
    tokenizers.get(references[third])
    assert tokenizers.get(references[first]) is loaded
    assert tokenizers.get(references[second]) is not other


def test_a_changed_tokenizer_is_not_used(copy: pathlib.Path) -> None:
    reference = tasks_pb2.TokenizerReference(repo_id=str(copy), fingerprint=loader.load(copy).fingerprint)
    change(copy / "tokenizer.json", normalizer={"type": "NFC"})
    with pytest.raises(errors.InvalidArgument) as caught:
        loader.TokenizerCache(1).get(reference)
    assert caught.value.reason == "TOKENIZER_INVALID"
    assert {str(copy), reference.fingerprint[:12], loader.load(copy).fingerprint[:12]} <= words(caught.value.message)


def broken(copy: pathlib.Path, how: str) -> None:
    """Break the tokenizer of a folder."""
    main = copy / "tokenizer.json"
    match how:
        case "truncated":
            main.write_bytes(main.read_bytes()[:5000])
        case "no tokenizer":
            main.unlink()
        case "not JSON":
            main.write_text("hello")
        case "empty object":
            main.write_text("{}")
        case "code":
            own = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
            change(copy / "tokenizer_config.json", **own)
            (copy / "own.py").write_text("raise SystemExit('this must never run')")
        case "pickle":
            main.unlink()
            (copy / "tokenizer.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        case "post-processor":
            content = json.loads(main.read_text())
            start, text = content["post_processor"]["single"]
            content["post_processor"]["single"] = [text, start, text]
            main.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("truncated", {"transformers", transformers.__version__}),
        ("no tokenizer", {"not", "tokenizer.json"}),
        ("not JSON", {"transformers", transformers.__version__}),
        ("empty object", {"transformers", transformers.__version__}),
        ("code", {"code", "tokenizer.json"}),
        ("pickle", {"not", "tokenizer.json"}),
        ("post-processor", {"post-processor", "add_special_tokens"}),
    ],
)
def test_broken_tokenizers(copy: pathlib.Path, how: str, named: set[str]) -> None:
    broken(copy, how)
    with pytest.raises(errors.InvalidArgument) as caught:
        loader.load(copy)
    assert {str(copy), *named} <= words(caught.value.message)
    assert (caught.value.reason, caught.value.retryable) == ("TOKENIZER_INVALID", False)
