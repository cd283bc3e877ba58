"""The source allowlist: which folders, buckets and hub repositories users may name as sources.

A user of the catalog can turn any file that the worker's user may read into a dataset, and so read it. If that is too
much, `POLYTOK_SOURCE_ALLOWLIST` names the places that may be read, and everything else is refused.
"""

import os
import posixpath
import re
from collections.abc import Sequence
from urllib.parse import unquote

from pydantic import field_validator
from pydantic_settings import SettingsConfigDict

from polytok import errors
from services.runtime.settings import Settings

HUB = "hf://"
"""Prefix of hub repositories in the allowlist: `hf://` allows all, `hf://owner` those of one owner."""

_KERNEL = ("/proc", "/sys", "/dev")
"""Kernel file systems: secrets of processes, devices, endless streams."""
_ORDINARY = ("/dev/shm",)  # noqa: S108  it is compared with
_LOCAL = re.compile(r"(file|local):(//)?(?=/)")


class SourceSettings(Settings):
    """The sources that workers may read on behalf of users."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_SOURCE_")

    allowlist: str = ""
    """Folders and URI prefixes, separated by commas; empty allows everything but kernel file systems."""

    @field_validator("allowlist")
    @classmethod
    def _whole(cls, value: str) -> str:
        for root in _split(value):
            if "://" not in root and not posixpath.isabs(root):
                raise ValueError(f"{root!r} is neither an absolute folder nor a URI prefix such as s3://bucket")
        return value


class SourceAllowlist:
    """Decides whether a source may be read, by the given settings or those of the environment."""

    def __init__(self, settings: SourceSettings | None = None) -> None:
        named = _split((settings or SourceSettings()).allowlist)
        self._named = named
        self._folders = [os.path.realpath(root) for root in named if "://" not in root]
        self._beginnings = [root for root in named if "://" in root]

    def check(self, uri: str) -> None:
        """Raise PermissionDenied (SOURCE_REFUSED) unless a path or URI may be read; links are resolved first."""
        path = _LOCAL.sub("", uri)
        if "://" in path:
            allowed = not self._named or any(_is_below(unquote(path), root) for root in self._beginnings)
        else:
            path = os.path.realpath(path)
            self._refuse_kernel(uri, path)
            allowed = not self._named or any(_is_below(path, root) for root in self._folders)
        if not allowed:
            raise self._refused(uri, "Copy it to one of them")

    def check_repository(self, repo_id: str) -> None:
        """Raise PermissionDenied (SOURCE_REFUSED) unless a hub repository, or a folder named like one, may be read."""
        if repo_id.startswith(("/", "~", ".")):
            self.check(repo_id)
        elif self._named and not any(_is_below(HUB + repo_id, root) for root in self._beginnings):
            raise self._refused(HUB + repo_id, "Use one of their repositories")

    @staticmethod
    def _refuse_kernel(uri: str, path: str) -> None:
        if any(_is_below(path, folder) for folder in _KERNEL) and not any(_is_below(path, each) for each in _ORDINARY):
            raise errors.PermissionDenied(
                f"{_shown(uri)} lies in a folder of the operating system ({path}), which is never read. "
                "Name a file with data.",
                reason="SOURCE_REFUSED",
            )

    def _refused(self, uri: str, advice: str) -> errors.PermissionDenied:
        return errors.PermissionDenied(
            f"{_shown(uri)} is outside the source allowlist: {', '.join(self._named)}. {advice}, or ask for its folder "
            "to be added to POLYTOK_SOURCE_ALLOWLIST of the workers.",
            reason="SOURCE_REFUSED",
        )


def _split(roots: str) -> Sequence[str]:
    return [root.strip() for root in roots.split(",") if root.strip()]


def _is_below(place: str, root: str) -> bool:
    """Return whether `place` is `root` or below it, never through `..`."""
    if ".." in place.split("/"):
        return False
    stem = root if root.endswith("/") else f"{root}/"
    return place == root.rstrip("/") or place.startswith(stem)


def _shown(uri: str) -> str:
    """Return a URI without password and query, which may contain a signature."""
    return re.sub(r"://[^/@]*@", "://", uri).split("?", 1)[0] if "://" in uri else uri
