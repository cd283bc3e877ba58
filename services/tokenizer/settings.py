"""Settings of the tokenizer's worker."""

import os
import pathlib
from typing import Literal

import platformdirs
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.runtime.settings import Settings


class TokenizerSettings(Settings):
    """How the worker's task process uses the machine."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_TOKENIZER_")

    threads: int = Field(default=0, ge=0, le=1024)
    """Number of threads that encode; 0 uses one for each available core."""
    cached: int = Field(default=2, ge=1, le=64)
    """Number of tokenizers kept loaded."""

    engine: Literal["auto", "reference", "gigatoken", "fastokens", "spans"] = "auto"
    """Engine to use: `auto` takes the fastest engine that proves exact, another name only that one, if it does."""
    proofs: str = ""
    """Folder for the results of comparing engines with the reference; empty uses the user's cache directory."""
    patience_bytes: int = Field(default=4 << 20, ge=0)
    """Bytes of text that the reference encodes before an engine is compared with it, which takes seconds once per
    tokenizer.
    """

    @property
    def proofs_folder(self) -> pathlib.Path:
        """Return the folder for proofs."""
        return pathlib.Path(self.proofs) if self.proofs else platformdirs.user_cache_path("polytok") / "proofs"

    @property
    def usable_threads(self) -> int:
        """Return the number of threads that encode."""
        return self.threads or len(os.sched_getaffinity(0))

    def apply(self) -> None:
        """Set the number of threads of the libraries; must be called before they are imported."""
        threads = str(self.usable_threads)
        os.environ["RAYON_NUM_THREADS"] = threads
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads != "1" else "false"
        # The thread pools of numpy and Arrow would not pay off here.
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
