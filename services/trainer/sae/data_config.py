"""What a training reads, as plain data that another process can open."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import datasets

from polytok import errors
from services.activations import activation_stream, models
from services.activations.token_selection import EVERY_TOKEN, TokenSelection
from services.trainer.sae.data import extraction, live
from services.trainer.sae.data.dataset import ActivationDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A live source, or an extraction. Folders are on this machine."""

    kind: Literal["live", "extraction"]
    hooks: tuple[str, ...]
    seed: int
    held_out_rows: int
    """Sequences, or rows of the extraction, that are held out."""
    extraction: str = ""
    """Folder of the extraction."""
    model: str = ""
    """Folder of the model; with an extraction it may be empty, and is what autoencoders are evaluated in."""
    tokenization: str = ""
    """Folder of the tokenization, with a model."""
    batch_tokens: int = 0
    """Tokens in a forward pass; 0 chooses by model and device."""
    selection: TokenSelection = EVERY_TOKEN
    """Which tokens are trained on; with an extraction, which are in it."""
    dtype: str = "float32"
    """What the model computes in."""
    compile: bool = False
    """Whether the model's blocks run through torch.compile."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "DataConfig":
        """Read what `to_dict` gave."""
        selection = TokenSelection.from_dict(fields.get("selection", {}))
        return cls(**{**fields, "hooks": tuple(fields["hooks"]), "selection": selection})

    def open(self, device: str) -> ActivationDataset:
        """Load and open all of it, the model on a device; raise what `models.load` and the sources raise."""
        if self.kind == "live":
            settings = activation_stream.StreamSettings(self.hooks, self.batch_tokens, self.selection)
            return live.LiveDataset(
                self._model(device), self._tokens(), settings, seed=self.seed, held_out_rows=self.held_out_rows
            )
        origin = None
        if self.model and self.tokenization:
            origin = extraction.ExtractionOrigin(self._model(device), self._tokens(), self.selection)
        folder = pathlib.Path(self.extraction)
        return extraction.ExtractionDataset(
            extraction.open_extraction(folder),
            self.hooks,
            name=folder.name,
            seed=self.seed,
            held_out_rows=self.held_out_rows,
            origin=origin,
        )

    def _model(self, device: str) -> models.LoadedModel:
        return models.load(pathlib.Path(self.model), dtype=self.dtype, device=device, compile=self.compile)

    def _tokens(self) -> Any:
        try:
            return datasets.load_from_disk(self.tokenization)
        except (OSError, ValueError, KeyError) as error:
            raise errors.DataLoss(
                f"{self.tokenization} cannot be opened as a tokenization ({error}). Tokenize again."
            ) from error
