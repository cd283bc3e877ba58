"""Resource names of references: an id, a full name, a uid, or the record itself."""

import re
from typing import Protocol

from polytok import errors

_TOKENIZATION_UID = re.compile(r"tok_([0-9a-f-]{36})_(m_[0-9a-f]{8})(?:_([a-z0-9-]+))?")


class Named(Protocol):
    """A record that carries its resource name."""

    @property
    def name(self) -> str:
        """The resource name."""


Reference = str | Named


def dataset(reference: Reference) -> str:
    """Return `datasets/{id}`."""
    return resource("datasets", reference)


def model(reference: Reference) -> str:
    """Return `models/{id}`."""
    return resource("models", reference)


def tokenization(reference: Reference, of_model: Reference | None = None, variant: str = "") -> str:
    """Return `datasets/{dataset}/tokenizations/{model}` or `…/{model}~{variant}`.

    `reference` is the dataset if a model is given too. Otherwise it names the tokenization: the full name,
    `dataset/model`, the uid `tok_…`, or the record.
    """
    if of_model is not None:
        name = f"{dataset(reference)}/tokenizations/{short(model(of_model))}"
    else:
        name = _whole_tokenization(_text(reference, "tokenization"))
    return f"{name}~{variant}" if variant else name


def resource(collection: str, reference: Reference) -> str:
    """Return `{collection}/{id}`."""
    singular = collection.removesuffix("s")
    text = _text(reference, singular)
    if "/" not in text:
        return f"{collection}/{text}"
    if text.startswith(f"{collection}/"):
        return text
    raise errors.InvalidArgument(
        f"{text!r} does not name a {singular}. Use its id, as shown by `polytok {singular} list`, or its full name, "
        f"`{collection}/ID`."
    )


def kind(name: str) -> str:
    """Return the kind of resource, which is also its command: `dataset`, `tokenization` and so on."""
    return name.split("/")[-2].removesuffix("s")


def short(name: str) -> str:
    """Return the short name of a resource: `docs` for `datasets/docs`, `docs/gpt2` for the tokenization."""
    for collection in ("datasets/", "models/", "extractions/", "trainings/"):
        name = name.removeprefix(collection)
    return name.replace("/tokenizations/", "/")


def _text(reference: Reference, singular: str) -> str:
    text = reference if isinstance(reference, str) else getattr(reference, "name", None)
    if not isinstance(text, str):
        raise errors.InvalidArgument(f"{reference!r} does not name a {singular}. Use its id or its record.")
    return text


def _whole_tokenization(text: str) -> str:
    uid = _TOKENIZATION_UID.fullmatch(text)
    if uid:
        of_dataset, of_model, variant = uid.groups()
        name = f"datasets/{of_dataset}/tokenizations/{of_model}"
        return f"{name}~{variant}" if variant else name
    parts = text.split("/")
    if len(parts) == 4:
        return text
    if len(parts) == 2 and all(parts) and parts[0] != "datasets":
        return f"datasets/{parts[0]}/tokenizations/{parts[1]}"
    raise errors.InvalidArgument(
        f"{text!r} does not name a tokenization. Name its dataset and model, as in `docs gpt2`, `docs/gpt2` or "
        "`datasets/docs/tokenizations/gpt2`."
    )
