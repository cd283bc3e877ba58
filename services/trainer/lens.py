"""sae-lens, imported when first used: the import takes seconds, and warns of its dependencies' renamings."""

import functools
import warnings
from typing import Any


@functools.cache
def module() -> Any:
    """Import `sae_lens` and what Polytok uses of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens  # noqa: PLC0415
        import sae_lens.saes.sae  # noqa: PLC0415
    return sae_lens
