"""What can be set about the tokenizer's worker."""

import os
import pathlib
from typing import Literal

import platformdirs
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
    proofs: str = ""
    """The folder for what was found when engines were compared with the reference; empty takes the user's cache."""
    patience_bytes: int = Field(default=4 << 20, ge=0)
    """Text that the reference encodes before an engine is compared with it, which takes seconds once a tokenizer."""

    @property
    def proofs_folder(self) -> pathlib.Path:
        """Where proofs are kept."""
        return pathlib.Path(self.proofs) if self.proofs else platformdirs.user_cache_path("polytok") / "proofs"

    @property
    def usable_threads(self) -> int:
        """How many threads encode."""
        return self.threads or len(os.sched_getaffinity(0))

    def apply(self) -> None:
        """Tell the libraries how many threads to use; has to happen before they are imported."""
        threads = str(self.usable_threads)
        os.environ["RAYON_NUM_THREADS"] = threads
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads != "1" else "false"
        # numpy's and Arrow's own pools have nothing to do here that pays for their threads.
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
