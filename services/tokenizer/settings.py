"""What can be set about the tokenizer's worker."""

import os
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.runtime.settings import Settings


class TokenizerSettings(Settings):
    """How the worker's child uses its machine."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_TOKENIZER_")

    threads: int = Field(default=0, ge=0, le=1024)
    """Threads that encode; 0 takes one a core that the process may run on."""
    cached: int = Field(default=2, ge=1, le=64)
    """Tokenizers that stay loaded."""

    engine: Literal["auto", "reference", "gigatoken", "fastokens", "spans"] = "auto"
    """What encodes: `auto` takes the fastest engine that proves itself, another name only that one, if it does."""

    @property
    def usable_threads(self) -> int:
        """How many threads encode."""
        return self.threads or len(os.sched_getaffinity(0))

    def apply(self) -> None:
        """Tells the libraries how many threads to use; has to happen before they are imported."""
        threads = str(self.usable_threads)
        os.environ["RAYON_NUM_THREADS"] = threads
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads != "1" else "false"
        # numpy's and Arrow's own pools have nothing to do here that pays for their threads.
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
