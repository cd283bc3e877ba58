"""The demo's tokenizers and models."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer

from polytok.demo import corpus, demo_models, demo_tokenizers

SPECIMENS = [
    "def f(x):\n    return x + 1  # 日本 🙂 2026\n",
    "",
    "\t tabs  and   runs of    spaces \n\n\n",
    "\x00 and a lone ▁ mark",
    "café naïve Ω ß",
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    paths = list(corpus.source_files())[::40]
    return [text for path in paths if (text := path.read_text(encoding="utf-8", errors="ignore"))]


@pytest.fixture(scope="module", params=demo_models.RECIPES, ids=[recipe.model_id for recipe in demo_models.RECIPES])
def made(request: pytest.FixtureRequest, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a recipe, its trained tokenizer and the folder that it was saved to."""
    recipe: demo_models.Recipe = request.param
    folder = tmp_path_factory.mktemp("models") / recipe.model_id
    tokenizer = recipe.train(texts)
    demo_models.save(recipe, tokenizer, folder, texts, steps=30)
    return recipe, tokenizer, folder


def test_transformers_gives_the_same_ids(made: Any, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    _, tokenizer, folder = made
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded.model_max_length = 10**9
    for text in [*SPECIMENS, *texts[:10]]:
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids


def test_ids_decode_to_the_text(made: Any, texts: list[str]) -> None:
    _, tokenizer, _ = made
    for text in [*SPECIMENS, *texts[:10]]:
        expected = text.replace("▁", " ") if tokenizer.token_to_id("<s>") is not None else text
        assert tokenizer.decode(tokenizer.encode(text).ids) == expected


def test_the_model_fits_the_tokenizer(made: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    _, tokenizer, folder = made
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == tokenizer.get_vocab_size() == demo_tokenizers.VOCABULARY
    ids = torch.tensor([tokenizer.encode(SPECIMENS[0]).ids])
    assert model(ids).logits.shape == (1, ids.shape[1], demo_tokenizers.VOCABULARY)


def test_the_same_texts_give_the_same_weights(made: Any, texts: list[str], tmp_path: pathlib.Path) -> None:
    recipe, tokenizer, folder = made
    again = tmp_path / "again"
    demo_models.save(recipe, tokenizer, again, texts, steps=30)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_model_knows_more_than_chance(made: Any, texts: list[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    _, tokenizer, folder = made
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode(text).ids[:128] for text in texts if len(text) > 2000][:8])
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert loss < 0.95 * math.log(demo_tokenizers.VOCABULARY)


def test_as_gpt2_has_it(texts: list[str]) -> None:
    tokenizer = demo_tokenizers.byte_level(texts)
    assert tokenizer.token_to_id("<|endoftext|>") == demo_tokenizers.VOCABULARY - 1
    assert tokenizer.encode("a b").tokens[-1].startswith("Ġ")


def test_as_llama2_has_it(texts: list[str]) -> None:
    tokenizer = demo_tokenizers.sentencepiece(texts)
    assert [tokenizer.id_to_token(number) for number in range(4)] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert tokenizer.token_to_id("<0xFF>") == 258
    encoded = tokenizer.encode("return 🙂12\n")
    assert encoded.tokens[:2] == ["<s>", "▁return"]
    assert encoded.tokens[-7:] == ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "1", "2", "<0x0A>"]


@pytest.mark.parametrize("train", [demo_tokenizers.byte_level, demo_tokenizers.sentencepiece])
def test_the_same_texts_give_the_same_tokenizer(texts: list[str], train: Callable[[list[str]], Tokenizer]) -> None:
    assert train(texts).to_str() == train(texts).to_str()


def test_an_interrupted_save_leaves_no_model(
    texts: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = demo_models.RECIPES[0]
    tokenizer: Tokenizer = recipe.train(texts[:5])

    def interrupted(_: Tokenizer) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_models.save(recipe._replace(transformer=interrupted), tokenizer, tmp_path / "model", texts, steps=1)
    assert not (tmp_path / "model").exists()
    demo_models.save(recipe, tokenizer, tmp_path / "model", texts, steps=1)
    assert (tmp_path / "model" / "model.safetensors").exists()
