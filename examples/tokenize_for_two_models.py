"""One corpus and one set of chats, tokenized for two models with every option.

    python examples/tokenize_for_two_models.py

Uses the running stack, or starts one for the duration of the example. Creates the corpus, the chats and both
tokenizers, and deletes everything at the end unless --keep is given. docs/example-tokenize.md explains the example.
"""

import argparse
import gzip
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from pydoc_data import topics
from typing import Any

import datasets
import tokenizers
from rich.console import Console
from rich.table import Table

import polytok
from polytok.client import discovery
from polytok.demo import demo_stack, demo_tokenizers

CHATML = """{%- if tools %}<|tools|>
{{ tools | tojson }}
{% endif -%}
{%- for message in messages -%}
<|{{ message.role }}|>
{{ message.content }}
{% endfor -%}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}"""
LLAMA = """{{ bos_token }}{% for message in messages -%}
{%- if message.role == 'assistant' %} {{ message.content }} {{ eos_token }}
{%- else %}[INST] {{ message.content }} [/INST]{% endif %}{% endfor %}"""

# Functions that the assistant may call, as JSON schemas in a column beside the conversations.
FUNCTIONS = json.dumps(
    [{"type": "function", "function": {"name": "look_up", "parameters": {"properties": {"topic": {"type": "string"}}}}}]
)

VARIANTS: Mapping[str, polytok.client.Parameters] = {
    # One sequence per document, truncated at max_length: the default variant of (dataset, model).
    "": {"text_column": "text", "max_length": 256, "truncation": "right", "add_special_tokens": True},
    # The end of a long document instead of its start, and the whole document.
    "ends": {"max_length": 64, "truncation": "left"},
    "whole": {"truncation": "none", "add_special_tokens": False},
    # A long document becomes several overlapping sequences.
    "windows": {"max_length": 64, "overflow": True, "stride": 16},
    # Sequences of one length: padded on the left, or to the longest of a file.
    "padded": {"max_length": 64, "padding": {"to": "max_length", "side": "left", "token": "eos"}},
    "longest": {"max_length": 128, "padding": "longest"},
    # Documents concatenated into sequences of exactly max_length, as SAELens does.
    "packed": {
        "max_length": 128,
        "packing": {"begin_of_batch": "bos", "begin_of_sequence": "none", "separator": "eos", "document_starts": True},
    },
    "cut": {"max_length": 32, "packing": {"disable_concatenation": True}},
    # Some of the documents.
    "clean": {
        "max_length": 256,
        "null_text": "drop",
        "normalization": "nfc",
        "filters": {
            "min_characters": 200,
            "max_characters": 50_000,
            "keep_pattern": "(?i)python|statement|object",
            "drop_pattern": "^Deprecated",
            "max_junk": 0.3,
            "drop_duplicates": True,
        },
    },
    "sample": {"max_length": 256, "shuffle_seed": 7, "max_documents": 20},
}

console = Console()


def main(*, keep: bool) -> None:
    """Run the example."""
    folder = discovery.folder() / "example"
    with demo_stack.running() as running, polytok.Client(running.address()) as client:
        try:
            texts = make_corpus(folder)
            register(client, folder, texts)
            tokenize(client)
            tokenize_chats(client)
            look(client)
        finally:
            if not keep:
                clean_up(client, folder)


def make_corpus(folder: pathlib.Path) -> Sequence[str]:
    """Write Python's own manual as compressed JSON lines, with one page twice."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = [{"title": title, "text": text} for title, text in sorted(topics.topics.items())]
    with gzip.open(folder / "manual.jsonl.gz", "wt", encoding="utf-8") as file:
        for page in (*pages, pages[0]):
            file.write(json.dumps(page) + "\n")
    return [page["text"] for page in pages]


def register(client: polytok.Client, folder: pathlib.Path, texts: Sequence[str]) -> None:
    """Register two models from local folders, one dataset from a file, and one from rows in memory."""
    byte_level, marks = demo_tokenizers.byte_level(texts), demo_tokenizers.sentencepiece(texts)
    save(folder / "bytes", byte_level, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    save(folder / "marks", marks, {"bos_token": "<s>", "eos_token": "</s>", "chat_template": LLAMA})
    for model in ("bytes", "marks"):
        client.models.create(f"example-{model}", str(folder / model))

    client.datasets.create("example-manual", files=folder / "manual.jsonl.gz")
    chats = datasets.Dataset.from_list(
        [{"messages": chat(title, text), "functions": FUNCTIONS} for title, text in topics.topics.items()]
    )
    client.datasets.create("example-chats", rows=chats)
    for dataset in ("example-manual", "example-chats"):
        console.print(f"{dataset}: {client.datasets.wait(dataset).num_samples} rows")
    for model in ("example-bytes", "example-marks"):
        console.print(f"{model}: {client.models.wait(model).vocab_size:,} tokens")


def chat(title: str, text: str) -> list[dict[str, str]]:
    """Return a conversation about a page."""
    return [
        {"role": "user", "content": f"What does Python's manual say about {title}?"},
        {"role": "assistant", "content": text.strip().split("\n\n")[0]},
    ]


def save(folder: pathlib.Path, tokenizer: tokenizers.Tokenizer, config: Mapping[str, str]) -> None:
    """Write the files of a model's folder that tokenizing needs."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


def tokenize(client: polytok.Client) -> None:
    """Create every variant for both models, and show the results; workers run in parallel."""
    models = ("example-bytes", "example-marks")
    asked = [
        client.tokenizations.create("example-manual", model, variant=variant, **parameters)
        for model in models
        for variant, parameters in VARIANTS.items()
    ]
    show([client.tokenizations.wait(each) for each in asked])


def tokenize_chats(client: polytok.Client) -> None:
    """Render the chats with the template of one model, and with our own for the other, which has none."""
    client.tokenizations.create("example-chats", "example-marks")
    client.tokenizations.create(
        "example-chats",
        "example-bytes",
        chat={"template": CHATML, "add_generation_prompt": True, "tools_column": "functions"},
    )
    made = [client.tokenizations.wait("example-chats", model) for model in ("example-marks", "example-bytes")]
    for each in made:
        console.print(f"{each.name}: column {each.parameters.text_column}, as {each.parameters.column_choice}")
    show(made)


def show(records: Sequence[Any]) -> None:
    """Print statistics side by side."""
    table = Table("model", "variant", "sequences", "tokens", "different", "cut", "padding", "dropped", box=None)
    for record in records:
        found = record.statistics
        dropped = found.num_too_short + found.num_too_long + found.num_unmatched + found.num_matched
        dropped += found.num_junk + found.num_duplicates + found.num_null_dropped
        table.add_row(
            record.model.removeprefix("models/example-"),
            record.variant or "-",
            *(f"{count:,}" for count in (found.num_sequences, found.num_tokens, found.num_unique_tokens)),
            *(f"{share:.1%}" for share in (found.truncated_share, found.padded_share)),
            f"{dropped:,}",
        )
    console.print(table)


def look(client: polytok.Client) -> None:
    """Open a tokenization, compare the models, and verify files and ids."""
    packed = client.load("example-manual", "example-bytes", variant="packed")
    row = packed[0]
    console.print(f"A packed row: {len(row['input_ids'])} tokens, of documents that start at {row['document_starts']}")

    record = client.tokenizations.get("example-manual", "example-marks")
    for each in record.statistics.most_frequent_tokens[:3]:
        console.print(f"Frequent: {each.id} {each.piece!r}, {each.count:,} times, {each.share:.1%}")

    for encoding in client.compare("A naïve list", ["example-bytes", "example-marks"]):
        console.print(encoding.model, [token.piece for token in encoding.tokens])

    result = client.tokenizers.verify("example-manual", "example-bytes", sample=20)
    console.print(f"Verified: {result.num_files} files, {result.sampled_documents} documents encoded again")
    if result.findings:
        raise SystemExit("\n".join(finding.message for finding in result.findings))


def clean_up(client: polytok.Client, folder: pathlib.Path) -> None:
    """Delete everything."""
    for dataset in ("example-manual", "example-chats"):
        if any(each.name == f"datasets/{dataset}" for each in client.datasets.list()):
            client.datasets.delete(dataset, force=True)
    for model in ("example-bytes", "example-marks"):
        if any(each.name == f"models/{model}" for each in client.models.list()):
            client.models.delete(model)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep everything")
    main(keep=parser.parse_args().keep)
