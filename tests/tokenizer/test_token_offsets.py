"""The bytes that tokens stand for."""

import pathlib

import pytest
import tokenizers
from tokenizers import AddedToken

from polytok.tokenizer.v1 import answers_pb2, tasks_pb2, tokenizer_pb2
from services.tokenizer.models import description, loader, token_offsets
from tests.tokenizer import samples


def encoded(folder: pathlib.Path, text: str, *, special: bool = True) -> tokenizer_pb2.Encoding:
    reference = tasks_pb2.TokenizerReference(repo_id=str(folder))
    task = answers_pb2.EncodeTask(tokenizer=reference, text=text, add_special_tokens=special)
    return description.encode(task, loader.TokenizerCache(1))


def parts(encoding: tokenizer_pb2.Encoding, text: str) -> list[bytes]:
    return [text.encode()[token.start : token.end] for token in encoding.tokens]


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("text", [*samples.ADVERSARIAL, *samples.DOCUMENTS[:5]], ids=lambda text: repr(text[:20]))
def test_pieces_that_spell_the_text_cover_it(folders: dict[str, pathlib.Path], kind: str, text: str) -> None:
    encoding = encoded(folders[kind], text)
    if encoding.exact_offsets:
        assert b"".join(parts(encoding, text)) == text.encode()
    # A ▁ in the text becomes a piece that spells a space.
    assert encoding.exact_offsets or (kind == "sentencepiece" and "▁" in text)


@pytest.mark.parametrize("text", samples.ADVERSARIAL, ids=lambda text: repr(text[:20]))
def test_ids_and_pieces_are_the_tokenizers(folder: pathlib.Path, text: str) -> None:
    backend = loader.load(folder).backend
    encoding = encoded(folder, text)
    assert [token.id for token in encoding.tokens] == backend.encode(text).ids
    assert [token.piece for token in encoding.tokens] == [backend.id_to_token(token.id) for token in encoding.tokens]
    size = len(text.encode())
    assert all(0 <= token.start <= token.end <= size for token in encoding.tokens)


def test_a_character_in_parts(folders: dict[str, pathlib.Path]) -> None:
    text = "a 中"
    for kind in ("byte_level", "sentencepiece"):
        encoding = encoded(folders[kind], text, special=False)
        assert encoding.exact_offsets
        assert parts(encoding, text)[-3:] == [bytes([byte]) for byte in "中".encode()]


def test_special_tokens_around_stand_for_nothing(folders: dict[str, pathlib.Path]) -> None:
    encoding = encoded(folders["wordpiece"], "Two words")
    first, last = encoding.tokens[0], encoding.tokens[-1]
    assert (first.piece, first.added, first.start, first.end) == ("[CLS]", True, 0, 0)
    assert (last.piece, last.added, last.start, last.end) == ("[SEP]", True, 9, 9)
    assert not any(token.added for token in encoded(folders["wordpiece"], "Two words", special=False).tokens)


def test_a_normaliser_leaves_whole_characters(folders: dict[str, pathlib.Path]) -> None:
    text = "École ÉCOLE"
    encoding = encoded(folders["wordpiece"], text, special=False)
    assert not encoding.exact_offsets
    for token, part in zip(encoding.tokens, parts(encoding, text), strict=True):
        assert part.decode() in text
        assert token.end > token.start


def test_an_added_token_that_swallows_spaces(folders: dict[str, pathlib.Path]) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folders["byte_level"] / "tokenizer.json"))
    backend.add_special_tokens([AddedToken("<|sep|>", lstrip=True, rstrip=True)])
    text = "one  <|sep|> two"
    encoding = backend.encode(text)
    pieces = [str(backend.id_to_token(token)) for token in encoding.ids]
    found = token_offsets.find(text, encoding, pieces, backend.get_added_tokens_decoder().keys())
    assert found.exact
    assert dict(zip(pieces, found.spans, strict=True))["<|sep|>"] == (3, 13)


@pytest.mark.parametrize("name", ["gpt2", "llama2", "phi4"])
def test_real_tokenizers_cover_real_text(shared: pathlib.Path, name: str) -> None:
    lines = (shared / "vectors" / "mixed.txt").read_text(encoding="utf-8").split("\n")[:400]
    for text in lines:
        encoding = encoded_once(shared / "tokenizers" / name, text)
        if encoding.exact_offsets:
            assert b"".join(parts(encoding, text)) == text.encode()
        # Llama 2 has no piece that spells ▁ itself.
        assert encoding.exact_offsets or (name == "llama2" and "▁" in text)


_loaded = loader.TokenizerCache(3)


def encoded_once(folder: pathlib.Path, text: str) -> tokenizer_pb2.Encoding:
    reference = tasks_pb2.TokenizerReference(repo_id=str(folder))
    reference.fingerprint = _fingerprints.setdefault(folder, "") or _loaded.get(reference).fingerprint
    _fingerprints[folder] = reference.fingerprint
    return description.encode(answers_pb2.EncodeTask(tokenizer=reference, text=text), _loaded)


_fingerprints: dict[pathlib.Path, str] = {}
