"""Find the folder of the embedded stack and the addresses of its services."""

import json
import os
import pathlib
from typing import Any

from polytok import environment, errors

HOME_VARIABLE = "POLYTOK_HOME"
ADDRESS_VARIABLE = "POLYTOK_CATALOG_ADDRESS"
_PROBE_SECONDS = 3.0
_QUEUE = "not ready: queue: "
"""Prefix of a readiness probe's response if the service cannot use the work queue."""


def folder() -> pathlib.Path:
    """Return POLYTOK_HOME, or else the user's data folder for polytok."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return pathlib.Path(chosen).expanduser().absolute()
    import platformdirs  # noqa: PLC0415  not needed if POLYTOK_HOME is set

    return platformdirs.user_data_path("polytok")


def stack() -> dict[str, Any] | None:
    """Return the contents of a running stack's stack.json, or None if no stack runs."""
    path = folder() / "stack.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    except PermissionError as error:
        raise errors.PermissionDenied(
            f"{path} belongs to another user. Run this as the user who started the stack, or set {ADDRESS_VARIABLE}."
        ) from error
    # A damaged file counts as no stack; a running stack rewrites it with the next change.
    whole = isinstance(facts, dict) and isinstance(facts.get("catalog_address"), str)
    return facts if whole and _is_alive(facts.get("pid")) else None


def queue_problem(facts: dict[str, Any]) -> str:
    """Return what the readiness probes of a running stack report about the work queue; empty if it works."""
    import urllib.error  # noqa: PLC0415  seldom needed
    import urllib.request  # noqa: PLC0415

    for port in facts.get("metrics_ports", {}).values():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=_PROBE_SECONDS):
                continue
        except urllib.error.HTTPError as refusal:
            text = refusal.read().decode(errors="replace")
        except OSError:
            continue
        if text.startswith(_QUEUE):
            return text.removeprefix(_QUEUE).strip()
    return ""


def _is_alive(pid: object) -> bool:
    """Return whether a process runs; a stack that was killed leaves its stack.json behind."""
    if not isinstance(pid, int) or not 0 < pid < 1 << 31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def catalog_address(address: str | None = None) -> str:
    """Return the catalog's host:port: `address`, POLYTOK_CATALOG_ADDRESS, or that of the running embedded stack."""
    environment.check()
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
    """Return the host:port of the `tokenizer`, `extractor` or `trainer` of that catalog's stack.

    It is POLYTOK_{SERVICE}_ADDRESS, or that of the running embedded stack.
    """
    variable = f"POLYTOK_{service.upper()}_ADDRESS"
    chosen = os.environ.get(variable)
    if chosen:
        return chosen
    facts = stack() or {}
    found = facts.get(f"{service}_address")
    # A stack on this machine may have nothing to do with a catalog elsewhere.
    if facts.get("catalog_address") != catalog or not found:
        raise errors.Unavailable(
            f"The address of the {service} of the catalog at {catalog} is unknown. Set {variable} to its host:port.",
            retryable=False,
        )
    return str(found)
