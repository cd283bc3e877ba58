"""What a user would write without Polytok: `datasets.map` on all cores and `save_to_disk`.

`python -m benchmarks.tokenize_theirs JSON`; prints a line of JSON. The tokenizer is loaded before the clock starts.
"""

import json
import os
import pathlib
import sys
import time

import datasets
import numpy as np
import transformers

from benchmarks import raw_shards


def main(source: str, tokenizer: str, target: str, packed: int) -> None:
    """Tokenizes a raw shard and saves it."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    loaded = transformers.AutoTokenizer.from_pretrained(tokenizer)
    rows = datasets.Dataset.from_file(source)

    def whole(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = loaded(batch["text"])
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    def grouped(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        # As Hugging Face's own examples do it: within a batch, and what does not fill a row is dropped.
        stream = [token for ids in loaded(batch["text"], add_special_tokens=False)["input_ids"] for token in ids]
        cut = [stream[start : start + packed] for start in range(0, len(stream) // packed * packed, packed)]
        return {"input_ids": cut, "attention_mask": [[1] * packed] * len(cut)}

    cores = len(os.sched_getaffinity(0))
    began, processor = time.perf_counter(), _processor()
    made = rows.map(grouped if packed else whole, batched=True, num_proc=cores, remove_columns=rows.column_names)
    made.save_to_disk(target)
    answer: dict[str, object] = {
        "seconds": time.perf_counter() - began,
        "processor_seconds": _processor() - processor,
    }
    if not packed:
        files = sorted(pathlib.Path(target).glob("data-*.arrow"))
        values, lengths = raw_shards.ids(files)
        answer |= {"sha256": raw_shards.sha256(values, lengths), "packed_sha256": _packed(loaded, values, lengths)}
    print(json.dumps(answer))


def _processor() -> float:
    """Seconds of processor time that this process and those of `map` took."""
    return sum(os.times()[:4])


def _packed(
    loaded: transformers.PreTrainedTokenizerFast, values: np.ndarray, lengths: np.ndarray, length: int = 1024
) -> str:
    """The hash of these documents' ids in one stream, special tokens left out, cut into rows."""
    plain, framed = (loaded("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    before = framed.index(plain[0])
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
