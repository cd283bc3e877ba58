"""Where an embedded stack keeps its state, and where it says that its services listen."""

import json
import os
import pathlib
from typing import Any

from polytok import errors

HOME_VARIABLE = "POLYTOK_HOME"
ADDRESS_VARIABLE = "POLYTOK_CATALOG_ADDRESS"


def folder() -> pathlib.Path:
    """POLYTOK_HOME, else the user's data folder for polytok."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return pathlib.Path(chosen).expanduser().absolute()
    import platformdirs  # noqa: PLC0415  not needed where POLYTOK_HOME is set

    return platformdirs.user_data_path("polytok")


def stack() -> dict[str, Any] | None:
    """The facts that a running stack wrote down (its stack.json), or None where none runs."""
    path = folder() / "stack.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    except PermissionError as error:
        raise errors.PermissionDenied(
            f"{path} belongs to another user. Run this as the user who started the stack, or set {ADDRESS_VARIABLE}."
        ) from error
    return facts if facts.get("catalog_address") and _is_alive(facts.get("pid", 0)) else None


def _is_alive(pid: int) -> bool:
    """Whether a process is there; a stack that was killed leaves its facts behind."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def catalog_address(address: str | None = None) -> str:
    """The catalog's host:port: the one given, else POLYTOK_CATALOG_ADDRESS, else the running embedded stack's."""
    chosen = address or os.environ.get(ADDRESS_VARIABLE)
    if chosen:
        return chosen
    facts = stack()
    if facts is None:
        raise errors.Unavailable(
            f"No Polytok stack runs on {folder()}. Start one with `polytok up`, or set {ADDRESS_VARIABLE} to the "
            "host:port of a catalog.",
            retryable=False,
        )
    return str(facts["catalog_address"])


def service_address(service: str, catalog: str) -> str:
    """The host:port of another service of that catalog's stack: POLYTOK_{SERVICE}_ADDRESS, else the embedded stack's.

    `service` is `tokenizer`, `extractor` or `trainer`.
    """
    variable = f"POLYTOK_{service.upper()}_ADDRESS"
    chosen = os.environ.get(variable)
    if chosen:
        return chosen
    facts = stack() or {}
    found = facts.get(f"{service}_address")
    # A stack on this machine says nothing about a catalog elsewhere.
    if facts.get("catalog_address") != catalog or not found:
        raise errors.Unavailable(
            f"Which {service} belongs to the catalog at {catalog} is not known here. Set {variable} to the host:port "
            f"of its {service}.",
            retryable=False,
        )
    return str(found)
