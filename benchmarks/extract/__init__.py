"""Extraction: tokens a second to the disk, beside the bare forward pass and SAELens's CacheActivationsRunner."""

import os

# Everything is made here; nobody is to ask the hub about a directory.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
