"""The baseline: `datasets.map` on all cores and `save_to_disk`.

`python -m benchmarks.tokenize_theirs JSON`; prints a line of JSON. The tokenizer is loaded before the clock starts: by
`transformers`, or, if `transformers` does not support the first version of `tokenizers` found, by that alone.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import tokenizers

from benchmarks import raw_shards

Columns = dict[str, list[Any]]
Encode = Callable[[list[str], bool], Columns]
"""input_ids and attention_mask of texts, with or without special tokens."""


def main(source: str, tokenizer: str, target: str, packed: int, alone: bool = False) -> None:
    """Tokenize a raw shard and save it; with `alone`, without `transformers`."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    encode = _alone(tokenizer) if alone else _with_transformers(tokenizer)
    rows = datasets.Dataset.from_file(source)

    def whole(batch: dict[str, list[str]]) -> Columns:
        return encode(batch["text"], True)

    def grouped(batch: dict[str, list[str]]) -> Columns:
        # As in Hugging Face's examples: within a batch, dropping what does not fill a row.
        stream = [token for ids in encode(batch["text"], False)["input_ids"] for token in ids]
        cut = [stream[start : start + packed] for start in range(0, len(stream) // packed * packed, packed)]
        return {"input_ids": cut, "attention_mask": [[1] * packed] * len(cut)}

    # The standalone version of tokenizers hangs in forked processes, and has threads of its own.
    cores = None if alone else len(os.sched_getaffinity(0))
    began, processor = time.perf_counter(), _processor()
    made = rows.map(grouped if packed else whole, batched=True, num_proc=cores, remove_columns=rows.column_names)
    made.save_to_disk(target)
    answer: dict[str, object] = {
        "version": tokenizers.__version__,
        "seconds": time.perf_counter() - began,
        "processor_seconds": _processor() - processor,
    }
    if not packed:
        files = sorted(pathlib.Path(target).glob("data-*.arrow"))
        values, lengths = raw_shards.ids(files)
        answer |= {"sha256": raw_shards.sha256(values, lengths), "packed_sha256": _packed(encode, values, lengths)}
    print(json.dumps(answer))


def _with_transformers(folder: str) -> Encode:
    import transformers  # noqa: PLC0415  it refuses versions of tokenizers that are not its own

    transformers.logging.set_verbosity_error()
    loaded = transformers.AutoTokenizer.from_pretrained(folder)

    def encode(texts: list[str], special: bool) -> Columns:
        found = loaded(texts, add_special_tokens=special)
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    return encode


def _alone(folder: str) -> Encode:
    loaded: Any = tokenizers.Tokenizer.from_file(str(pathlib.Path(folder, "tokenizer.json")))

    def encode(texts: list[str], special: bool) -> Columns:
        found = loaded.encode_batch(texts, add_special_tokens=special)
        # Arrays, which this version supports, make it faster still.
        return {
            "input_ids": [each.ids_array for each in found],
            "attention_mask": [each.attention_mask_array for each in found],
        }

    return encode


def _processor() -> float:
    """Return the processor seconds of this process and those of `map`."""
    return sum(os.times()[:4])


def _packed(encode: Encode, values: np.ndarray, lengths: np.ndarray, length: int = 1024) -> str:
    """Return the hash of these documents' ids in one stream, without special tokens, cut into rows."""
    plain, framed = (encode(["a"], special)["input_ids"][0] for special in (False, True))
    before = list(framed).index(plain[0])
    after = len(framed) - before - len(plain)
    ends = np.cumsum(lengths)
    keep = np.ones(len(values), np.bool_)
    for place in range(before):
        keep[ends - lengths + place] = False
    for place in range(after):
        keep[ends - 1 - place] = False
    stream = values[keep]
    rows = len(stream) // length
    return raw_shards.sha256(stream[: rows * length], np.full(rows, length, np.int64))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
