"""`python -m services.tokenizer`: the tokenizer's worker, which serves TokenizerService beside its tasks."""

from services.runtime import process
from services.tokenizer.worker import worker

if __name__ == "__main__":
    process.run(worker.main)
