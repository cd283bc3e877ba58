"""The generic collection: records of one kind, read, changed and watched over a transport."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from google.protobuf import field_mask_pb2

from polytok import errors
from polytok.client import message_builder, resource_names, sync, watch_stream
from polytok.client.transport import Transport

Reference = resource_names.Reference
Record = TypeVar("Record", bound=watch_stream.Record)

PAGE_SIZE = 1000


class Service:
    """The methods of one gRPC service. `{method}Request` is the message that a method takes."""

    _stub_class: type[Any]
    _messages: Any
    """The module with the messages of the service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def _stub(self) -> Any:
        return self._transport.stub(self._stub_class)

    def _request(self, method: str, fields: Mapping[str, Any]) -> Any:
        return message_builder.build(getattr(self._messages, f"{method}Request"), **fields)

    async def _call(self, method: str, *, seconds: float | None = None, **fields: Any) -> Any:
        """Send a request with these fields; return the response."""
        return await self._transport.unary(getattr(self._stub, method), self._request(method, fields), seconds)

    def _stream(self, method: str, seconds: float | None = None, **fields: Any) -> AsyncGenerator[Any, None]:
        """Send a request with these fields; return its responses."""
        return self._transport.stream(getattr(self._stub, method), self._request(method, fields), seconds)

    async def _pages(
        self, method: str, items: str, page_size: int = PAGE_SIZE, **fields: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield the items of all pages of a list (AIP-158); `items` is their field in the response."""
        token = ""
        while True:
            page = await self._call(method, page_size=page_size, page_token=token, **fields)
            for item in getattr(page, items):
                yield item
            token = page.next_page_token
            if not token:
                return


class Collection(Service, Generic[Record]):
    """Records of one kind. A record is named by its id, its full name, its uid or the record itself.

    Methods are named as the AIPs have it: `GetDataset`, `ListDatasets`, `WatchDataset` and so on.
    """

    _kind: str
    """The name of the record's message, such as `Dataset`."""

    @sync.method
    async def get(self, resource: Reference, /) -> Record:
        """Return one record. Raises NotFound."""
        return await self._change("Get", self._name(resource))

    @sync.iterator
    async def list(self, *, states: Sequence[str] = ()) -> AsyncGenerator[Record, None]:
        """Yield all records, newest first, page by page; only those in some states (`READY`, `ERROR`, …) if given."""
        async for record in self._list(states):
            yield record

    @sync.method
    async def delete(self, resource: Reference, /, *, etag: str = "", request_id: str = "") -> None:
        """Delete a record and its files; cancels its work. Raises NotFound, FailedPrecondition (held), Aborted."""
        await self._delete(self._name(resource), etag, request_id)

    @sync.method
    async def retry(self, resource: Reference, /, *, request_id: str = "") -> Record:
        """Start the work again after ERROR or CANCELLED. Raises NotFound, FailedPrecondition."""
        return await self._change("Retry", self._name(resource), request_id=request_id)

    @sync.iterator
    async def watch(self, resource: Reference, /) -> AsyncGenerator[Record, None]:
        """Yield the record as it is, then after every change, until its state is terminal. Raises NotFound."""
        async for record in self._watch(self._name(resource)):
            yield record

    @sync.method
    async def wait(self, resource: Reference, /, *, timeout: float | None = None) -> Record:  # noqa: ASYNC109
        """Return the record once it is READY.

        Raises FailedPrecondition with the error's reason if it failed or is PAUSED, Cancelled, or DeadlineExceeded
        after `timeout` seconds.
        """
        return await self._wait(self._name(resource), timeout)

    def _name(self, resource: Reference) -> str:
        return resource_names.resource(f"{self._kind.lower()}s", resource)

    async def _change(self, verb: str, name: str, **fields: Any) -> Record:
        """Call a method that takes a name and returns the record."""
        record: Record = await self._call(f"{verb}{self._kind}", name=name, **fields)
        return record

    async def _delete(self, name: str, etag: str, request_id: str, **fields: Any) -> None:
        await self._call(f"Delete{self._kind}", name=name, etag=etag, request_id=request_id, **fields)

    def _list(self, states: Sequence[str], **fields: Any) -> AsyncGenerator[Record, None]:
        record: Any = getattr(self._messages, self._kind)
        plural = f"{self._kind}s"
        return self._pages(f"List{plural}", plural.lower(), states=_states(record.State, states), **fields)

    def _watch(self, name: str) -> AsyncGenerator[Record, None]:
        return watch_stream.follow(self._transport, self._versions(name))

    async def _wait(self, name: str, timeout: float | None) -> Record:  # noqa: ASYNC109
        return await watch_stream.until_ready(self._transport, self._versions(name), timeout)

    def _versions(self, name: str) -> watch_stream.OpenStream[Record]:
        async def versions(seconds: float | None) -> AsyncGenerator[Record, None]:
            async for response in self._stream(f"Watch{self._kind}", seconds, name=name):
                yield getattr(response, self._kind.lower())

        return versions


class CancellableCollection(Collection[Record]):
    """Records whose work can be cancelled."""

    @sync.method
    async def cancel(self, resource: Reference, /, *, request_id: str = "") -> Record:
        """Cancel the work of a record. Raises NotFound, FailedPrecondition."""
        return await self._change("Cancel", self._name(resource), request_id=request_id)


class SourceCollection(Collection[Record]):
    """Records that tokenizations are made from: datasets and models."""

    @sync.method
    async def update(
        self, resource: Reference, /, *, metadata: Mapping[str, str], etag: str = "", request_id: str = ""
    ) -> Record:
        """Replace the metadata, if the record still has this etag. Raises NotFound, Aborted."""
        kind = getattr(self._messages, self._kind)
        changed = message_builder.build(kind, name=self._name(resource), metadata=metadata, etag=etag)
        record: Record = await self._call(
            f"Update{self._kind}",
            update_mask=field_mask_pb2.FieldMask(paths=["metadata"]),
            request_id=request_id,
            **{self._kind.lower(): changed},
        )
        return record

    @sync.method
    async def delete(
        self, resource: Reference, /, *, force: bool = False, etag: str = "", request_id: str = ""
    ) -> None:
        """Delete a record and its files; with `force`, its tokenizations too. Raises NotFound, FailedPrecondition."""
        await self._delete(self._name(resource), etag, request_id, force=force)


def _states(enum: Any, names: Sequence[str]) -> list[Any]:
    """Return the values of states that are given by name: READY, ERROR and so on."""
    known = {name.removeprefix("STATE_"): value for name, value in enum.items() if value}
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    for name in names:
        if name.upper() not in known:
            raise errors.InvalidArgument(f"Unknown state {name!r}. Expected one of: {', '.join(known)}.")
    return [known[name.upper()] for name in names]
