"""Folders written by `Dataset.save_to_disk` and `DatasetDict.save_to_disk` of the `datasets` library."""

import json
import posixpath
from collections.abc import Mapping
from typing import Any

from services.catalog.ingest import source_errors

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_STATE_BYTES = 16 << 20
_NAMES_SHOWN = 10


def find(filesystem: Any, folder: str, files: Mapping[str, int], shown: str) -> dict[str, int]:
    """Return the Arrow files of a saved dataset, in the order of their rows; empty if the folder is none.

    `files` are all files below the folder, with their sizes; `shown` is the folder's name in messages. Raise for a
    folder of several saved datasets: they are different splits, or different datasets.
    """
    saved = sorted({posixpath.dirname(name) for name in files if _is_saved(posixpath.dirname(name), files)})
    if not saved:
        return {}
    if saved != [folder.rstrip("/")]:
        raise _several(filesystem, folder, files, saved, shown)
    return _files(filesystem, saved[0], files, shown)


def _is_saved(folder: str, files: Mapping[str, int]) -> bool:
    return all(posixpath.join(folder, name) in files for name in (_STATE, _INFO))


def _several(filesystem: Any, folder: str, files: Mapping[str, int], saved: list[str], shown: str) -> Exception:
    names = [posixpath.relpath(each, folder) for each in saved]
    splits = posixpath.join(folder.rstrip("/"), _SPLITS)
    if splits in files:
        listed = _read(filesystem, splits, files, shown).get("splits")
        names = [name for name in listed if name in names] if isinstance(listed, list) else names
    what = "splits" if splits in files else "saved datasets"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return source_errors.invalid(
        f"{shown} contains {what}, written by `save_to_disk`: {', '.join(names[:_NAMES_SHOWN])}{more}. Name the folder"
        f" of one, for example {shown.rstrip('/')}/{names[0] if names else ''}; each becomes a dataset."
    )


def _files(filesystem: Any, folder: str, files: Mapping[str, int], shown: str) -> dict[str, int]:
    state = _read(filesystem, posixpath.join(folder, _STATE), files, shown)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise source_errors.invalid(
            f"{shown} was saved with an indices mapping, so its files have other rows than the dataset."
            " Save it again with `dataset.flatten_indices().save_to_disk(…)`."
        )
    listed = state.get("_data_files")
    names = [each.get("filename") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    paths = [posixpath.join(folder, name) for name in names if isinstance(name, str)]
    if missing := [path for path in paths if path not in files]:
        raise source_errors.invalid(
            f"{shown}: {posixpath.basename(missing[0])} is missing, which {_STATE} lists. Copy the folder again."
        )
    if not paths:
        raise source_errors.invalid(f"{shown}: {_STATE} lists no files. Save the dataset again.")
    return {path: files[path] for path in paths}


def _read(filesystem: Any, path: str, files: Mapping[str, int], shown: str) -> dict[str, Any]:
    try:
        if files[path] > _STATE_BYTES:
            raise ValueError(f"{files[path]:,} bytes")
        found = json.loads(filesystem.cat_file(path))
        if not isinstance(found, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise source_errors.invalid(
            f"{shown}: {posixpath.basename(path)} is not as `save_to_disk` writes it ({str(error)[:200]}). Save the"
            " dataset again."
        ) from error
    return found
