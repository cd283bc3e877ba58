# ruff: noqa: RUF001 (the characters that look alike are the point)
"""The engine that cuts texts gives the reference's ids, whatever the text, the tokenizer and the state of its cache."""

import concurrent.futures
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from services.tokenizer.engines import reference, spans
from services.tokenizer.engines.spans import span_engine as engines
from services.tokenizer.engines.spans import span_table as tables
from services.tokenizer.models import loader
from tests.tokenizer import samples

TRAPS = [
    "\u0301begins with a mark",
    "a \u0301b\n\u0301c .\u0301d 文\u0301e \u0301\u0327f\u0327\u0301 \u0301",
    "a\u00adb a\u200bb \u200db \ufeffa\ufeff b\x00c \x00 d\x00\u0301 \x7f",
    "\u0344 \u0958 \u212a \u037e \u1fef \u226e \u2260 | ~ ^ || a|b",
    "▁", "▁▁a", " ▁a", "▁ a", "a▁", "a ", "  ", "\n", "\n\n a\n\n\nb", "\r\n\t", " \n \n", "a\n b \n",
    "  indented\n    more\n\t\tand more", "x" * 15, "x" * 16, "x" * 17, " " * 40 + "end", "=" * 300, "0" * 33,
    "line\u2028line\u2029line\u0085line\u00a0line\u3000line\u1680line\u180eline",
    "龥龦鿼鿿㐀䶵䶿豈a𠀀b\U0002b820c丽d", "—“quoted”…‘single’、。「日本」（全角）！？：；，", "ẛ̣ ΑΣ ΣΑΣ İstanbul ǅ Å",
    "<s", "<s>", "a<s>b", "</s", "<unk> x", "[UNK]", "[unk]", "[ SEP ]", "x[SEP]y", "<0x0A>", "<0x0a>\n<0x00>",
    "a" * 5000 + " " + "ab" * 700, "é" * 600, "\U0001f600" * 20, "🇺🇳🇺🇳 👩‍👩‍👧", "קָמָץ هَمزة กำลัง नमस्ते",
]  # fmt: skip
ALPHABET = st.one_of(
    st.sampled_from(
        " \n\t\r▁|.,'<>s/abcthe019éß文龥字—\x00\u0301\u0327\u0344\u200d\u00ad\ufeff\u00a0\u3000İΣ\U0001f600"
    ),
    st.characters(codec="utf-8"),
)
TEXTS = st.lists(st.text(ALPHABET, max_size=60), max_size=6)
UNHURRIED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
    derandomize=True,
)


def array(texts: Sequence[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def ids(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def made(backend: tokenizers.Tokenizer) -> engines.SpanEngine:
    found = spans.create_engine(backend)
    assert isinstance(found, engines.SpanEngine)
    return found


def encoded(engine: engines.SpanEngine, texts: Sequence[str]) -> list[list[int]]:
    rows = engine.encode(array(texts))
    assert rows.values.dtype == np.int32
    assert rows.offsets.dtype == np.int64
    return [rows.values[start:end].tolist() for start, end in itertools.pairwise(rows.offsets)]


@pytest.fixture(params=["sentencepiece", "wordpiece"])
def backend(request: pytest.FixtureRequest, folders: dict[str, pathlib.Path]) -> tokenizers.Tokenizer:
    return loader.load(folders[request.param]).backend


@pytest.fixture
def engine(backend: tokenizers.Tokenizer) -> engines.SpanEngine:
    return made(backend)


@pytest.fixture(params=[1, 3])
def small_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room for anything, and threads: what happens rarely happens all the time."""
    monkeypatch.setenv("RAYON_NUM_THREADS", str(request.param))
    monkeypatch.setattr(engines, "_SHARE_BYTES", 50)
    monkeypatch.setattr(engines, "_OUT", 100)
    monkeypatch.setattr(engines, "_MOST_MISSING", 5)
    monkeypatch.setattr(tables, "_FIRST_SLOTS", 8)


TEXTS_OF_ALL_KINDS = [*TRAPS, *samples.ADVERSARIAL, *samples.DOCUMENTS, "".join(TRAPS), " ".join(TRAPS)]


def test_the_ids_are_the_references(backend: tokenizers.Tokenizer, engine: engines.SpanEngine) -> None:
    expected = ids(backend, TEXTS_OF_ALL_KINDS)
    assert encoded(engine, TEXTS_OF_ALL_KINDS) == expected
    assert encoded(engine, TEXTS_OF_ALL_KINDS) == expected, "with the spans in the table"
    assert [encoded(made(backend), [text])[0] for text in TRAPS[:12]] == expected[:12], "each alone"


@pytest.mark.usefixtures("small_steps")
def test_scans_of_any_length(backend: tokenizers.Tokenizer) -> None:
    texts = TEXTS_OF_ALL_KINDS[:-30]
    assert encoded(made(backend), texts) == ids(backend, texts)


@pytest.mark.usefixtures("small_steps")
def test_the_table_is_bounded(backend: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_SPANS", 50)
    monkeypatch.setattr(tables, "MOST_BYTES", 500)
    engine = made(backend)
    assert encoded(engine, samples.DOCUMENTS[:3]) == ids(backend, samples.DOCUMENTS[:3])
    assert len(engine._table.slots) <= 1024
    assert len(engine._table.keys) < 10_000
    assert len(engine._table.ids) < 50_000


@UNHURRIED
@given(texts=TEXTS)
def test_any_text(backend: tokenizers.Tokenizer, engine: engines.SpanEngine, texts: list[str]) -> None:
    assert encoded(engine, texts) == ids(backend, texts)


@pytest.mark.parametrize(("scheme", "split"), list(itertools.product(["first", "always", "never"], [True, False])))
def test_metaspace(folders: dict[str, pathlib.Path], scheme: str, split: bool) -> None:
    backend = loader.load(folders["sentencepiece"]).backend
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    assert encoded(made(backend), TEXTS_OF_ALL_KINDS) == ids(backend, TEXTS_OF_ALL_KINDS)


def test_marks_alone(folders: dict[str, pathlib.Path]) -> None:
    backend = loader.load(folders["sentencepiece"]).backend
    backend.normalizer = normalizers.Replace(" ", "▁")
    for splitter in (None, pre_tokenizers.Split(" ", "merged_with_previous")):
        if splitter:
            backend.pre_tokenizer = splitter
        assert encoded(made(backend), TEXTS_OF_ALL_KINDS) == ids(backend, TEXTS_OF_ALL_KINDS)


@pytest.mark.parametrize("flags", list(itertools.product(*[[True, False]] * 3, [True, False, None])))
def test_every_kind_of_bert(folders: dict[str, pathlib.Path], flags: tuple[bool | None, ...]) -> None:
    backend = loader.load(folders["wordpiece"]).backend
    names = ("clean_text", "handle_chinese_chars", "lowercase", "strip_accents")
    backend.normalizer = normalizers.BertNormalizer(**dict(zip(names, flags, strict=True)))
    assert encoded(made(backend), TEXTS_OF_ALL_KINDS) == ids(backend, TEXTS_OF_ALL_KINDS)


def test_bert_without_a_normalizer(folders: dict[str, pathlib.Path]) -> None:
    backend = loader.load(folders["wordpiece"]).backend
    backend.normalizer = None
    assert encoded(made(backend), TEXTS_OF_ALL_KINDS) == ids(backend, TEXTS_OF_ALL_KINDS)


PIECES = "ab▁é\n<"


@st.composite
def random_bpe(draw: st.DrawFn) -> tokenizers.Tokenizer:
    """BPE whose pieces are any at all: with marks inside and at the end, and overlapping."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    pieces = draw(st.lists(st.sampled_from(PIECES), unique=True, min_size=1))
    vocab |= {piece: 256 + place for place, piece in enumerate(pieces)}
    merges = []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces))
        if pair not in merges:
            merges.append(pair)
            pieces.append("".join(pair))
            vocab.setdefault(pieces[-1], len(vocab))
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True))
    if draw(st.booleans()):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme=draw(st.sampled_from(["first", "never"])), split=draw(st.booleans())
        )
    return backend


@UNHURRIED
@given(backend=random_bpe(), texts=st.lists(st.text(st.sampled_from(PIECES + " c文"), max_size=30), max_size=8))
def test_any_merges(backend: tokenizers.Tokenizer, texts: list[str]) -> None:
    assert encoded(made(backend), texts) == ids(backend, texts)


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("hello", normalized=False),
        AddedToken(" w o r d ", normalized=True),
        AddedToken("the", normalized=True, single_word=True, lstrip=True),
        AddedToken("文", normalized=False, rstrip=True),
    ],
)
def test_added_tokens(folders: dict[str, pathlib.Path], token: AddedToken) -> None:
    backend = loader.load(folders["sentencepiece"]).backend
    backend.add_tokens([token])
    texts = [
        "hello hello",
        "say  hello\n",
        "w o r d",
        "a w o r d w o r d b",
        "the other the",
        "文 文字",
        "plain",
        "hell o",
    ]
    assert encoded(made(backend), texts) == ids(backend, texts)
    backend.add_special_tokens(["▁▁x"])
    backend.encode_special_tokens = True
    assert encoded(made(backend), [*texts, *TRAPS, "▁▁x"]) == ids(backend, [*texts, *TRAPS, "▁▁x"])


def refused(folders: dict[str, pathlib.Path]) -> Iterator[tuple[str, tokenizers.Tokenizer]]:
    yield "byte-level", loader.load(folders["byte_level"]).backend
    yield "unigram", tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0)], 0))
    normalized = loader.load(folders["wordpiece"]).backend
    normalized.add_tokens(["mask"])
    yield "WordPiece with a token that is looked for in the normalised text", normalized
    spaced = loader.load(folders["wordpiece"]).backend
    spaced.pre_tokenizer = pre_tokenizers.Whitespace()
    yield "WordPiece with another pre-tokenizer", spaced
    folded = loader.load(folders["wordpiece"]).backend
    folded.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer()])
    yield "WordPiece with another normalizer", folded
    composed = loader.load(folders["sentencepiece"]).backend
    composed.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")])
    yield "BPE with another normalizer", composed
    split = loader.load(folders["sentencepiece"]).backend
    split.pre_tokenizer = pre_tokenizers.Digits()
    yield "BPE with another pre-tokenizer", split
    bare = loader.load(folders["sentencepiece"]).backend
    bare.add_tokens([AddedToken(" ", normalized=True)])
    yield "a token of spaces that is looked for in the normalised text", bare


def refused_models() -> Iterator[tuple[str, models.BPE]]:
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"<unk>": 256, "▁": 257, "a": 258, "▁a": 259}
    merges = [("▁", "a")]
    fallback = {"byte_fallback": True, "unk_token": "<unk>"}
    yield "no bytes", models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True)
    yield "a byte missing", models.BPE({key: vocab[key] for key in vocab if key != "<0x07>"}, merges, **fallback)
    yield "dropout", models.BPE(vocab, merges, dropout=0.5, **fallback)
    yield "merges ignored", models.BPE(vocab, merges, ignore_merges=True, **fallback)
    yield "a prefix", models.BPE(vocab | {"##a": 260, "▁##a": 261}, [], continuing_subword_prefix="##", **fallback)
    yield "a suffix", models.BPE(vocab | {"a</w>": 260}, [], end_of_word_suffix="</w>", **fallback)
    yield "bytes merged", models.BPE(vocab | {"<0xE2><0x96>": 260}, [("<0xE2>", "<0x96>")], **fallback)
    yield "one id twice", models.BPE(vocab | {"b": 258}, merges, **fallback)


def test_unsupported_tokenizers(folders: dict[str, pathlib.Path]) -> None:
    for what, backend in refused(folders):
        assert spans.create_engine(backend) is None, what
    for what, model in refused_models():
        backend = tokenizers.Tokenizer(model)
        backend.normalizer = normalizers.Replace(" ", "▁")
        assert spans.create_engine(backend) is None, what


def test_arrays_of_all_shapes(backend: tokenizers.Tokenizer, engine: engines.SpanEngine) -> None:
    texts = ["", "one two", "", "[SEP] <s>", "three", ""]
    whole = array([*TRAPS, *texts])
    sliced = engine.encode(whole[len(TRAPS) :])
    assert np.split(sliced.values, sliced.offsets[1:-1])[1].tolist() == ids(backend, texts)[1]
    assert encoded(engine, texts) == ids(backend, texts)
    assert encoded(engine, []) == []
    assert encoded(engine, ["", ""]) == [[], []]
    assert encoded(engine, ["[SEP]<s>"]) == ids(backend, ["[SEP]<s>"])


def test_several_threads_may_call(backend: tokenizers.Tokenizer, engine: engines.SpanEngine) -> None:
    shares = [TEXTS_OF_ALL_KINDS[start::4] for start in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda texts: encoded(engine, texts), shares))
    assert found == [ids(backend, texts) for texts in shares]


def test_a_failure_leaves_nothing_behind(backend: tokenizers.Tokenizer, engine: engines.SpanEngine) -> None:
    broken = b"good words \xff\xc3"
    sizes = np.array([0, len(broken)], np.int64)
    texts = pa.Array.from_buffers(pa.large_string(), 1, [None, pa.py_buffer(sizes), pa.py_buffer(broken)])
    with pytest.raises(UnicodeDecodeError):
        engine.encode(texts)
    assert encoded(engine, ["good words"]) == ids(backend, ["good words"])


def test_spans_with_equal_hashes_are_distinguished() -> None:
    multiply, mix, mask = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, (1 << 64) - 1

    def mixed(word: int) -> int:
        word = (word ^ (word >> 32)) * mix & mask
        return word ^ (word >> 32)

    def state(block: bytes) -> int:
        return mixed(16 * multiply & mask ^ int.from_bytes(block, "little")) * multiply & mask

    # The second half of a span makes up for what the first half did to the hash.
    first = b"spansall"
    alike = (
        (block, (int.from_bytes(b"different"[:8], "little") ^ state(first) ^ state(block)).to_bytes(8, "little"))
        for block in (f"{number:08}".encode() for number in itertools.count())
    )
    block, rest = next((block, rest) for block, rest in alike if rest.isascii())
    text = first + b"different"[:8] + block + rest
    words = np.frombuffer(text + bytes(32), np.uint64)
    asked: list[str] = []

    def encode(missing: tables.MissingSpans) -> reference.Ragged:
        texts = missing.strings(np.ones(len(missing.starts), np.bool_))
        asked.extend(texts)
        return reference.Ragged(np.arange(len(texts), dtype=np.int32), np.arange(len(texts) + 1))

    table = tables.SpanTable(encode)
    (bases,) = table.resolve([tables.MissingSpans(words, np.array([0, 16, 0, 16, 16, 0]))])
    assert [text.encode() for text in asked] == [text[:16], text[16:]]
    assert bases[0] != bases[1]
    assert table.slots[bases[0]] == table.slots[bases[1]], "both have one hash"
