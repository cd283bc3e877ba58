"""Top-k selection: the k highest of every vector, or of a whole batch, without a full sort."""

import math

import torch

from services.trainer.sae.steps import base


def topk_per_row(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Return the columns of the k highest scores of every row, unordered; scores (rows, columns), result (rows, k).

    Equal to `torch.topk` except for ties. Columns are grouped: the k highest lie within the k groups with the highest
    maxima, so that on a processor only those are ranked.
    """
    rows, columns = scores.shape
    size = _group(columns, k) if base.reads_values(scores) else 1
    if size == 1:
        return torch.topk(scores, k, dim=-1, sorted=False).indices
    grouped = scores.view(rows, size, columns // size)
    groups = torch.topk(grouped.amax(1), k, dim=-1, sorted=False).indices
    candidates = grouped.gather(2, groups[:, None, :].expand(rows, size, k)).view(rows, size * k)
    chosen = torch.topk(candidates, k, dim=-1, sorted=False).indices
    return (chosen // k) * (columns // size) + groups.gather(1, chosen % k)


def topk_per_batch(scores: torch.Tensor, total: int, hint: float) -> torch.Tensor:
    """Return the flat indices of the `total` highest scores of a batch; on a processor, only positive ones.

    `hint` is a guess of the lowest of them, which saves time and changes nothing: of equal scores at the edge, those
    of the lowest index are taken. On a processor indices ascend; on a device they are unordered, and no value is read.
    """
    flat = scores.view(-1)
    if not base.reads_values(scores):
        return torch.topk(flat, total, sorted=False).indices
    candidates = (flat > max(hint, 0.0)).nonzero().view(-1)
    if len(candidates) < total:
        candidates = (flat > 0).nonzero().view(-1)
    if len(candidates) <= total:
        return candidates
    values = flat[candidates]
    lowest = torch.kthvalue(values, len(values) - total + 1).values
    above = values > lowest
    ties = (values == lowest).nonzero().view(-1)[: total - int(above.sum())]
    above[ties] = True
    return candidates[above]


def _group(columns: int, k: int) -> int:
    """Return the number of columns of a group: the power of two that leaves least to rank, or 1 for no groups."""
    target = math.sqrt(columns / k)
    size = 1
    while size * 2 <= target * 1.5 and columns % (size * 2) == 0:
        size *= 2
    return size if size >= 4 else 1
