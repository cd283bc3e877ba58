"""The script a user would write without Polytok: `python -m benchmarks.by_hand FILE MODEL TARGET`."""

import sys

import datasets
import transformers


def main(source: str, model: str, target: str) -> None:
    """Tokenize a jsonl file with `datasets.map` and save it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = datasets.load_dataset("json", data_files=source, split="train")

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return dict(tokenizer(batch["text"], truncation=True, max_length=1024))

    rows.map(tokenize, batched=True, remove_columns=rows.column_names).save_to_disk(target)


if __name__ == "__main__":
    main(*sys.argv[1:4])
