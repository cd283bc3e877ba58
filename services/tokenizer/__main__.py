"""`python -m services.tokenizer`: the tokenizer's worker, which also serves TokenizerService."""

from services.runtime import process
from services.tokenizer.worker import worker

if __name__ == "__main__":
    process.run(worker.main)
