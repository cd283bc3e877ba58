"""Check that activations are finite, and locate the first that is not.

A model overflows in float16, whose largest number is 65,504, long before it does in float32 or bfloat16. Reading such
activations fails with hook, row and position: a loss that became NaN many steps later would not show the cause.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from polytok import errors


class NotFinite(NamedTuple):
    """Invalid numbers in some vectors."""

    numbers: int
    """Number of NaN or infinite values."""
    first: int
    """Index of the first vector with one."""


def find_not_finite(values: Tensor) -> NotFinite | None:
    """Check vectors [n, width]; return None if all numbers are finite. Waits for the device."""
    # A sum with a non-finite term is not finite; the reverse need not hold, because finite terms may overflow.
    if bool(torch.isfinite(values.sum(dtype=torch.promote_types(values.dtype, torch.float32)))):
        return None
    wrong = ~torch.isfinite(values)
    count = int(wrong.sum())
    return NotFinite(count, int(wrong.any(1).nonzero()[0])) if count else None


def not_finite_error(
    hook: str, found: NotFinite, place: str, advice: str, metadata: dict[str, str]
) -> errors.FailedPrecondition:
    """Return the error for a finding; `place` is for example `row 3, position 7`."""
    return errors.FailedPrecondition(
        f"{hook}: {found.numbers} numbers are NaN or infinite, the first at {place}. {advice}",
        reason="NOT_FINITE",
        metadata={"hook": hook} | metadata,
    )


def check_finite(hook: str, values: Tensor, rows: Tensor, positions: Tensor, advice: str) -> None:
    """Raise FailedPrecondition for vectors [n, width] that are not finite; `rows` and `positions` [n] locate them."""
    found = find_not_finite(values)
    if found is None:
        return
    row, position = int(rows[found.first]), int(positions[found.first])
    metadata = {"row": str(row), "position": str(position)}
    raise not_finite_error(hook, found, f"row {row}, position {position}", advice, metadata)


def suggest_dtype(dtype: torch.dtype) -> str:
    """Return advice for a model that produces such numbers in a number format."""
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        largest = torch.finfo(dtype).max
        return f"Run the model as float32 or bfloat16: it runs as {name}, whose largest number is {largest:,.0f}."
    return (
        f"The model runs as {name}, and no other number format has a larger range: exclude the tokens where "
        "it happens, or check the model's weights."
    )
