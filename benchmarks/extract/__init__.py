"""Extraction: tokens per second to disk, against the bare forward pass and SAELens's CacheActivationsRunner."""

import os

# Everything is generated here; the hub must not be asked about a directory.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
