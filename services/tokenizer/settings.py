"""What can be set about the tokenizer's worker."""

import os

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

    def apply(self) -> None:
        """Tells the libraries how many threads to use; has to happen before they are imported."""
        threads = str(self.threads or len(os.sched_getaffinity(0)))
        os.environ["RAYON_NUM_THREADS"] = threads
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads != "1" else "false"
        # numpy's and Arrow's own pools have nothing to do here that pays for their threads.
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
