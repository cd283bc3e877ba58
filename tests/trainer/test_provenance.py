"""What an export says that it was trained on is what was read, and SAELens, opened from it, feeds the same."""

import json
import pathlib
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from polytok.trainer.v1 import tasks_pb2, trainings_pb2
from services.activations import activation_stream, models
from services.activations.token_selection import EVERY_TOKEN, TokenSelection
from services.tokenizer.sequences import base, packing
from services.trainer.sae import architectures, configs, export, normalization
from services.trainer.worker import provenance
from tests.tokenizer.test_packing import flat, rows_of
from tests.trainer import gaussian
from tests.trainer import models as small

BOS, LENGTH = small.EXCLUDED, 12
PATH = "transformer.h.1"
SELECTION = TokenSelection(context_size=LENGTH, excluded_token_ids=(BOS, 7), excluded_positions=(0, 1, 2))


@dataclass
class Read:
    """What was read: a source without files."""

    tokens: Any
    manifest: Any = None
    selection: TokenSelection = SELECTION
    dtype: str = "float32"


def packed(documents: list[list[int]], begin: int | None) -> Read:
    """Documents packed by Polytok, and the manifest's words for it."""
    boundaries = packing.Boundaries(begin, None, begin)
    rows = rows_of(packing.Packer(base.NO_FRAME, LENGTH, boundaries).add(flat(documents)))
    boundary = "BOUNDARY_NONE" if begin is None else "BOUNDARY_BOS"
    manifest = SimpleNamespace(
        parameters={"packing": {"begin_of_batch": boundary, "separator": boundary}},
        statistics={"max_seq_length": LENGTH},
    )
    return Read(datasets.Dataset.from_dict({"input_ids": rows}), manifest)


def reported(read: Read, hook: str = PATH, **lineage: Any) -> export.Origin:
    known = {"tokenization": "datasets/a/tokenizations/b", "model_repo_id": "org/model", "bos_token_id": BOS}
    found = trainings_pb2.TrainingLineage(**known | lineage)
    task = tasks_pb2.RunTrainingTask(training="trainings/first", lineage=found)
    whole = gaussian.training(gaussian.sae("topk"))
    return provenance.origins(task, read, whole)(replace(whole.saes[0], hook=hook))  # type: ignore[arg-type]


def written(origin: export.Origin, folder: pathlib.Path) -> pathlib.Path:
    sae = architectures.create_sae(configs.SaeConfig(architecture="topk", d_in=small.D_IN, d_sae=32, k=4))
    firing = export.Firing(torch.ones(32), 8, "held out")
    export.write(sae, normalization.Normalization(), origin, firing, folder)
    return folder


def tokenizer() -> Any:
    """Return a word a token."""
    words = {"<s>" if number == BOS else f"w{number}": number for number in range(small.VOCABULARY)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = small.save(tmp_path_factory.mktemp("model"))
    # SAELens loads one; transformers gives this kind of model its own whatever is saved here.
    tokenizer().save_pretrained(folder)
    return folder


# Of SAELens and what it imports.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("given", ["texts", "tokens"])
@pytest.mark.parametrize("begin", [BOS, None])
def test_saelens_feeds_the_rows_and_takes_the_positions(
    begin: int | None, given: str, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from sae_lens import SAE
    from sae_lens.load_model import load_model
    from sae_lens.training.activations_store import ActivationsStore

    drawn = np.random.default_rng(3)
    documents = [drawn.integers(2, small.VOCABULARY, int(drawn.integers(3, 30))).tolist() for _ in range(40)]
    texts = [" ".join(f"w{token}" for token in document) for document in documents]
    read = packed(documents, begin)
    rows = read.tokens["input_ids"][:]
    sae = SAE.load_from_disk(written(reported(read, model_repo_id=str(folder)), tmp_path / "sae"))
    said = sae.cfg.metadata
    assert said.prepend_bos is (begin is not None)
    model = load_model(
        said.model_class_name, said.model_name, "cpu", said.model_from_pretrained_kwargs, [said.hook_name]
    )
    model.tokenizer = tokenizer()
    store = ActivationsStore.from_sae(
        model,
        sae,
        datasets.Dataset.from_dict({"text": texts}) if given == "texts" else read.tokens,
        store_batch_size_prompts=5,
        sequence_separator_token=said.sequence_separator_token,
        disable_concat_sequences=said.disable_concat_sequences,
    )
    store.exclude_special_tokens = torch.tensor(said.exclude_special_tokens)
    assert torch.cat([store.get_batch_tokens(), store.get_batch_tokens()]).tolist() == rows[:10]
    found = store.get_filtered_llm_batch()
    ours = activation_stream.ActivationStream(
        models.load(folder), read.tokens, activation_stream.StreamSettings((PATH,), selection=SELECTION)
    )
    (piece,) = ours.pieces(10, 5)
    torch.testing.assert_close(found, piece.values[PATH], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "bos", "expected"),
    [
        ([[BOS, 5], [], [BOS]], BOS, True),
        ([[BOS, 5], [5, BOS]], BOS, False),
        ([[BOS, 5], [BOS, 6]], None, False),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_sequences_that_begin_with_bos(rows: list[list[int]], bos: int | None, expected: bool, masked: bool) -> None:
    columns = {"input_ids": rows}
    if masked:
        # Padding in front.
        columns = {"input_ids": [[9, *row] for row in rows], "attention_mask": [[0, *[1] * len(row)] for row in rows]}
    assert provenance.begins_with(datasets.Dataset.from_dict(columns), bos) is expected


# Of SAELens and what it imports.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_boundaries_of_packed_sequences_are_named(tmp_path: pathlib.Path) -> None:
    from sae_lens import PretokenizeRunnerConfig

    read = packed([[5] * 40], BOS)
    read.manifest.parameters["packing"] = {
        "begin_of_batch": "BOUNDARY_EOS",
        "begin_of_sequence": "BOUNDARY_BOS",
        "separator": "BOUNDARY_NONE",
    }
    metadata = json.loads((written(reported(read), tmp_path / "sae") / "cfg.json").read_text())["metadata"]
    names = ("begin_batch_token", "begin_sequence_token", "sequence_separator_token")
    assert [metadata[name] for name in names] == ["eos", "bos", None]
    assert set(names) <= {field.name for field in fields(PretokenizeRunnerConfig)}
    # What SAELens takes where nothing is asked for.
    read.manifest.parameters["packing"] = {}
    assert [reported(read).metadata()[name] for name in names] == ["bos", None, "bos"]
    read.manifest.parameters.clear()
    assert not set(names) & reported(read).metadata().keys()


def test_where_the_tokenization_is_gone_nothing_is_said_of_bos() -> None:
    assert reported(Read(None)).prepend_bos is None


def test_the_context_is_what_the_model_saw() -> None:
    read = packed([[5] * 40], None)
    assert reported(replace(read, selection=TokenSelection(context_size=512))).context_size == LENGTH
    assert reported(replace(read, selection=TokenSelection(context_size=8))).context_size == 8
    assert reported(replace(read, selection=EVERY_TOKEN)).context_size == LENGTH


@pytest.mark.parametrize(
    ("hook", "dtype", "revision", "loader", "options"),
    [
        ("blocks.1.hook_resid_post", "float32", "", "HookedTransformer", {}),
        ("hook_embed", "bfloat16", "", "HookedTransformer", {"dtype": "bfloat16"}),
        ("blocks.1.hook_mlp_out", "float32", "abc", "HookedTransformer", {"revision": "abc"}),
        (PATH, "float32", "abc", "AutoModelForCausalLM", {"dtype": "float32", "revision": "abc"}),
    ],
)
def test_the_model_is_loaded_as_it_ran(hook: str, dtype: str, revision: str, loader: str, options: Any) -> None:
    read = replace(packed([[5] * 40], BOS), dtype=dtype)
    said = reported(read, hook, model_revision=revision).metadata()
    assert (said["model_class_name"], said["model_from_pretrained_kwargs"]) == (loader, options)
    assert (said["model_name"], said["hook_name"], said["hook_head_index"]) == ("org/model", hook, None)
    assert said["dataset_path"] is None
    assert said["tokenization"] == "datasets/a/tokenizations/b"


def test_firing_is_that_of_what_is_exported(tmp_path: pathlib.Path) -> None:
    folder = written(reported(packed([[5] * 40], BOS)), tmp_path / "sae")
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert (metadata["l0"], metadata["num_dead_features"]) == (4.0, 0)
    assert (metadata["sparsity_samples"], metadata["sparsity_source"]) == (8, "held out")
