import pytest
import torch

from services.trainer.sae.steps import topk


@pytest.mark.parametrize(("columns", "k"), [(512, 3), (4096, 32), (48, 4), (500, 7), (64, 64), (96, 1)])
def test_rows_keep_their_highest(columns, k):
    scores = torch.randn(9, columns, generator=torch.Generator().manual_seed(columns))
    found = topk.topk_per_row(scores, k)
    assert found.shape == (9, k)
    assert torch.equal(found.sort().values, torch.topk(scores, k).indices.sort().values)


def test_rows_of_equal_scores_give_k_different_columns():
    found = topk.topk_per_row(torch.zeros(3, 4096), 16)
    assert all(len(set(row.tolist())) == 16 for row in found)


@pytest.mark.parametrize("hint", [0.0, 0.5, 1.4, 50.0, -3.0, float("nan"), float("inf")])
def test_a_batch_keeps_its_highest_whatever_the_hint(hint):
    scores = torch.randn(20, 100, generator=torch.Generator().manual_seed(3))
    found = topk.topk_per_batch(scores, 300, hint)
    assert torch.equal(found, torch.topk(scores.flatten(), 300).indices.sort().values)


@pytest.mark.parametrize("hint", [0.0, 0.9, 2.0])
def test_of_equal_scores_at_the_edge_the_first_are_taken(hint):
    scores = torch.ones(4, 10)
    scores[3, 9] = 2
    assert topk.topk_per_batch(scores, 5, hint).tolist() == [0, 1, 2, 3, 39]


def test_a_batch_with_few_positive_scores_keeps_those():
    scores = torch.full((4, 10), -1.0)
    scores[1, 2] = scores[2, 1] = 0.5
    assert topk.topk_per_batch(scores, 8, 0.0).tolist() == [12, 21]
    assert topk.topk_per_batch(-torch.ones(4, 10), 8, 0.0).tolist() == []
