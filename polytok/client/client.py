"""`polytok.Client` and `polytok.AsyncClient`: connections to a catalog."""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from polytok.client import (
    datasets,
    discovery,
    extractions,
    files,
    models,
    resource_names,
    sync,
    tokenizations,
    tokenizers,
    trainings,
    transport,
)
from polytok.tokenizer.v1 import tokenizer_pb2

if TYPE_CHECKING:
    from datasets import Dataset

TIMEOUT_SECONDS = 30.0
PATIENCE_SECONDS = 15.0
"""Long enough for a killed catalog to restart on a busy machine."""
TLS_VARIABLE = "POLYTOK_TLS_CA"

TransportT = TypeVar("TransportT")


class _Peers(Generic[TransportT]):
    """Transports to the other services of a catalog's stack, opened on first use."""

    def __init__(self, connect: Callable[[str], TransportT], catalog: str) -> None:
        self._connect = connect
        self._catalog = catalog
        self._lock = threading.Lock()
        self._opened: dict[str, TransportT] = {}

    def __call__(self, service: str) -> TransportT:
        with self._lock:
            if service not in self._opened:
                self._opened[service] = self._connect(discovery.service_address(service, self._catalog))
            return self._opened[service]

    def opened(self) -> Sequence[TransportT]:
        """Return the transports that are open."""
        return list(self._opened.values())


class Client:
    """A connection to a catalog.

        with polytok.Client() as client:
            client.datasets.create("docs", files="docs.jsonl")
            client.models.create("gpt2", "openai-community/gpt2")
            client.datasets.wait("docs")
            client.models.wait("gpt2")
            client.tokenizations.create("docs", "gpt2", max_length=1024)
            client.tokenizations.wait("docs", "gpt2")
            rows = client.load("docs", "gpt2")
            pieces = [token.piece for token in client.encode("A text.", "gpt2").tokens]
            found = client.extractions.create("docs", "gpt2", hooks=["blocks.6.hook_resid_post"])
            client.extractions.wait(found)
            activations = client.activations(found)
            sae = {"hook": "blocks.3.hook_resid_post", "architecture": "topk", "d_sae": 4096, "k": 32}
            client.trainings.create("docs", "gpt2", name="first", saes=[sae])
            client.trainings.wait("first")
            folder = client.sae_path("first")  # for SAELens's SAE.load_from_disk

    The address defaults to POLYTOK_CATALOG_ADDRESS, then to the stack that runs on POLYTOK_HOME. `tls_ca` (or
    POLYTOK_TLS_CA) is the PEM file of the authority that signed the catalog's certificate. One attempt of a call may
    take `timeout` seconds. While the catalog is unavailable, calls are retried for `patience` seconds without being
    executed twice. Every error is a `polytok.errors.PolytokError`. Threads may share a client. `close`, or the end of
    `with`, closes the connections; a later call opens them again.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tls_ca: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.address = discovery.catalog_address(address)
        connect = functools.partial(
            transport.SyncTransport, tls_ca=_authority(tls_ca), timeout=timeout, patience=patience
        )
        self._transport = connect(self.address)
        self._peers = _Peers(connect, self.address)
        self.datasets = datasets.Datasets(self._transport)
        self.models = models.Models(self._transport)
        self.tokenizations = tokenizations.Tokenizations(self._transport)

    def load(
        self,
        dataset: resource_names.Reference,
        model: resource_names.Reference,
        variant: str = "",
        *,
        columns: Sequence[str] | None = None,
        format: str | None = None,  # noqa: A002  the name in `datasets`
    ) -> "Dataset":
        """Return the token ids of a dataset for a model: a memory-mapped `datasets.Dataset`.

        `columns` selects columns. `format` is the type of values, as in `datasets.Dataset.with_format`: `torch`,
        `numpy`, `arrow`, …; by default Python objects.

        Raises NotFound if there is no such tokenization, FailedPrecondition if it is not READY, InvalidArgument for an
        unknown column or format.
        """
        view = files.View(columns, format)
        return files.load_tokenization(self.tokenizations.resolve(dataset, model, variant=variant), view)

    def encode(
        self, text: str, model: resource_names.Reference, *, add_special_tokens: bool = True
    ) -> tokenizer_pb2.Encoding:
        """Return the tokens of a text for a model; see `Tokenizers.encode`."""
        return self.tokenizers.encode(text, model, add_special_tokens=add_special_tokens)

    def compare(
        self, text: str, models: Sequence[resource_names.Reference], *, add_special_tokens: bool = True
    ) -> Sequence[tokenizer_pb2.Encoding]:
        """Return the tokens of a text for several models; see `Tokenizers.compare`."""
        return self.tokenizers.compare(text, models, add_special_tokens=add_special_tokens)

    @property
    def tokenizers(self) -> tokenizers.Tokenizers:
        """Tokenizers of models, at POLYTOK_TOKENIZER_ADDRESS or in the stack on POLYTOK_HOME."""
        return tokenizers.Tokenizers(self._peers("tokenizer"))

    @property
    def extractions(self) -> extractions.Extractions:
        """Extractions of activations, at POLYTOK_EXTRACTOR_ADDRESS or in the stack on POLYTOK_HOME."""
        return extractions.Extractions(self._peers("extractor"))

    def activations(
        self,
        extraction: resource_names.Reference,
        *,
        columns: Sequence[str] | None = None,
        format: str | None = None,  # noqa: A002  the name in `datasets`
    ) -> "Dataset":
        """Return the activations of an extraction: a memory-mapped `datasets.Dataset` with a column for each hook.

        `columns` and `format` are those of `load`. Raises NotFound if there is no such extraction, FailedPrecondition
        if it is not READY, InvalidArgument for an unknown column or format.
        """
        return files.load_extraction(self.extractions.get(extraction), files.View(columns, format))

    @property
    def trainings(self) -> trainings.Trainings:
        """Trainings of sparse autoencoders, at POLYTOK_TRAINER_ADDRESS or in the stack on POLYTOK_HOME."""
        return trainings.Trainings(self._peers("trainer"))

    def sae_path(self, training: resource_names.Reference, sae: str = "") -> str:
        """Return the folder that SAELens's `SAE.load_from_disk` opens; see `Trainings.path`."""
        return self.trainings.path(training, sae)

    def close(self) -> None:
        """Close the connections; a later call opens them again."""
        sync.run(self._transport.close())
        for peer in self._peers.opened():
            sync.run(peer.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio: every method is a coroutine, and `list` and `watch` are asynchronous iterators.

    async with polytok.AsyncClient() as client:
        async for record in client.tokenizations.watch("docs", "gpt2"):
            print(record.progress)
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tls_ca: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.address = discovery.catalog_address(address)
        connect = functools.partial(
            transport.AsyncTransport, tls_ca=_authority(tls_ca), timeout=timeout, patience=patience
        )
        self._transport = connect(self.address)
        self._peers = _Peers(connect, self.address)
        self.datasets = datasets.AsyncDatasets(self._transport)
        self.models = models.AsyncModels(self._transport)
        self.tokenizations = tokenizations.AsyncTokenizations(self._transport)

    async def load(
        self,
        dataset: resource_names.Reference,
        model: resource_names.Reference,
        variant: str = "",
        *,
        columns: Sequence[str] | None = None,
        format: str | None = None,  # noqa: A002  the name in `datasets`
    ) -> "Dataset":
        """Return the token ids of a dataset for a model: a memory-mapped `datasets.Dataset`.

        Arguments and errors are those of `Client.load`.
        """
        tokenization = await self.tokenizations.resolve(dataset, model, variant=variant)
        return await asyncio.to_thread(files.load_tokenization, tokenization, files.View(columns, format))

    async def encode(
        self, text: str, model: resource_names.Reference, *, add_special_tokens: bool = True
    ) -> tokenizer_pb2.Encoding:
        """Return the tokens of a text for a model; see `Tokenizers.encode`."""
        return await self.tokenizers.encode(text, model, add_special_tokens=add_special_tokens)

    async def compare(
        self, text: str, models: Sequence[resource_names.Reference], *, add_special_tokens: bool = True
    ) -> Sequence[tokenizer_pb2.Encoding]:
        """Return the tokens of a text for several models; see `Tokenizers.compare`."""
        return await self.tokenizers.compare(text, models, add_special_tokens=add_special_tokens)

    @property
    def tokenizers(self) -> tokenizers.AsyncTokenizers:
        """See `Client.tokenizers`."""
        return tokenizers.AsyncTokenizers(self._peers("tokenizer"))

    @property
    def extractions(self) -> extractions.AsyncExtractions:
        """See `Client.extractions`."""
        return extractions.AsyncExtractions(self._peers("extractor"))

    async def activations(
        self,
        extraction: resource_names.Reference,
        *,
        columns: Sequence[str] | None = None,
        format: str | None = None,  # noqa: A002  the name in `datasets`
    ) -> "Dataset":
        """Return the activations of an extraction: a memory-mapped `datasets.Dataset`.

        Arguments and errors are those of `Client.activations`.
        """
        found = await self.extractions.get(extraction)
        return await asyncio.to_thread(files.load_extraction, found, files.View(columns, format))

    @property
    def trainings(self) -> trainings.AsyncTrainings:
        """See `Client.trainings`."""
        return trainings.AsyncTrainings(self._peers("trainer"))

    async def sae_path(self, training: resource_names.Reference, sae: str = "") -> str:
        """Return the folder that SAELens's `SAE.load_from_disk` opens; see `Trainings.path`."""
        return await self.trainings.path(training, sae)

    async def close(self) -> None:
        """Close the connections; a later call opens them again."""
        await self._transport.close()
        for peer in self._peers.opened():
            await peer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _authority(tls_ca: str | None) -> str:
    return os.environ.get(TLS_VARIABLE, "") if tls_ca is None else tls_ca
