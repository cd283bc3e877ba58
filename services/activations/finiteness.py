"""Whether activations are finite, and where the first is that is not.

A model overflows in float16, whose largest number is 65,504, long before it does in float32 or bfloat16. Whoever reads
its activations fails with hook, row and position: a loss that became NaN many steps later would say nothing of it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from polytok import errors


class NotFinite(NamedTuple):
    """What is wrong with some vectors."""

    numbers: int
    """Numbers that are NaN or infinite."""
    first: int
    """Index of the first vector with one."""


def find_not_finite(values: Tensor) -> NotFinite | None:
    """Look at vectors [n, width]; None if all numbers are finite. Waits for the device."""
    # No sum of finite numbers and one that is not is finite; that it is not need not mean that one of them is.
    if bool(torch.isfinite(values.sum(dtype=torch.promote_types(values.dtype, torch.float32)))):
        return None
    wrong = ~torch.isfinite(values)
    count = int(wrong.sum())
    return NotFinite(count, int(wrong.any(1).nonzero()[0])) if count else None


def not_finite_error(
    hook: str, found: NotFinite, place: str, advice: str, metadata: dict[str, str]
) -> errors.FailedPrecondition:
    """Return the error that says what was found; `place` is where, as `row 3, position 7`."""
    return errors.FailedPrecondition(
        f"{hook}: {found.numbers} numbers are NaN or infinite, the first at {place}. {advice}",
        reason="NOT_FINITE",
        metadata={"hook": hook} | metadata,
    )


def check_finite(hook: str, values: Tensor, rows: Tensor, positions: Tensor, advice: str) -> None:
    """Raise FailedPrecondition for vectors [n, width] that are not finite; `rows` and `positions` [n] say where."""
    found = find_not_finite(values)
    if found is None:
        return
    row, position = int(rows[found.first]), int(positions[found.first])
    metadata = {"row": str(row), "position": str(position)}
    raise not_finite_error(hook, found, f"row {row}, position {position}", advice, metadata)


def suggest_dtype(dtype: torch.dtype) -> str:
    """Return what helps where a model that runs in a number format gives such numbers."""
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        largest = torch.finfo(dtype).max
        return f"Run the model as float32 or bfloat16: it runs as {name}, which holds no number beyond {largest:,.0f}."
    return (
        f"The model runs as {name}, and no other number format holds larger numbers: leave out the tokens where it "
        "happens, or check the model's weights."
    )
