"""Statistics of any split are those of the whole, as NumPy computes them in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polytok import errors
from services.activations.statistics import OUTLIER, ActivationStatistics
from tests.support.messages import words


def _of(values: NDArray[np.float32]) -> ActivationStatistics:
    found = ActivationStatistics(values.shape[1])
    found.add(torch.from_numpy(values))
    return found


def _check(found: ActivationStatistics, values: NDArray[np.float32]) -> None:
    exact = values.astype(np.float64)
    centred = exact - exact.mean(0)
    norms = np.linalg.norm(exact, axis=1)
    assert found.count == len(values)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.variance, exact.var(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.moments[1], (centred**3).sum(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.kurtosis, (centred**4).mean(0) / exact.var(0) ** 2, rtol=1e-8)
    summary = found.summary()
    assert summary["min"] == exact.min()
    assert summary["max"] == exact.max()
    np.testing.assert_allclose(summary["norm_mean"], norms.mean(), rtol=1e-9)
    np.testing.assert_allclose(summary["norm_std"], norms.std(), rtol=1e-7)
    np.testing.assert_allclose(summary["mean_vector"], exact.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(summary["variance_mean"], exact.var(0).mean(), rtol=1e-9)


def _material(count: int, width: int = 24) -> NDArray[np.float32]:
    """Far from zero, of very different sizes, and skewed: where careless sums cancel."""
    generator = np.random.default_rng(0)
    scale = 10.0 ** generator.integers(-3, 3, width)
    return ((generator.standard_gamma(2.0, (count, width)) + 50) * scale).astype(np.float32)


def test_of_the_whole() -> None:
    values = _material(5000)
    _check(_of(values), values)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 700), max_size=6), through_bytes=st.booleans())
def test_of_any_split(cuts: list[int], through_bytes: bool) -> None:
    values = _material(700)
    total = ActivationStatistics(values.shape[1])
    for part in np.split(values, sorted(cuts)):
        other = _of(part)
        total.merge(ActivationStatistics.from_bytes(other.to_bytes()) if through_bytes else other)
    _check(total, values)


def test_added_in_pieces() -> None:
    values = _material(3000, 300)
    found = ActivationStatistics(300)
    for part in torch.from_numpy(values).split(257):
        found.add(part)
    _check(found, values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_short_numbers_in_float64(dtype: torch.dtype) -> None:
    values = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = ActivationStatistics(8)
    found.add(values)
    _check(found, values.float().numpy())


def test_dead_and_outlier_dimensions() -> None:
    values = np.random.default_rng(0).standard_normal((400, 10)).astype(np.float32)
    values[:, 3] = 0.0
    values[:, 7] *= 2 * OUTLIER
    summary = _of(values).summary()
    assert summary["dead_dimensions"] == [3]
    assert summary["outlier_dimensions"] == [7]
    assert np.isnan(_of(values).kurtosis[3])


def test_ratios_of_almost_nothing_are_undefined() -> None:
    same = _of(np.full((40, 3), 0.1, np.float32))
    # What rounding leaves of a spread is no distribution.
    assert same.summary()["kurtosis_mean"] is None
    assert same.summary()["dead_dimensions"] == [0, 1, 2]
    assert _of(np.full((1, 3), 0.1, np.float32)).summary()["dead_dimensions"] == []
    sparse = np.zeros((400, 5), np.float32)
    sparse[:, :2] = np.random.default_rng(0).standard_normal((400, 2))
    assert _of(sparse).summary()["outlier_dimensions"] == []


def test_nan_and_infinity() -> None:
    values = _material(50, 4)
    spoiled = values.copy()
    spoiled[3, 0] = np.nan
    spoiled[3, 1] = np.inf
    spoiled[20, 2] = -np.inf
    found = _of(spoiled)
    assert (found.nan, found.infinite, found.left_out) == (1, 2, 2)
    _check(found, np.delete(values, [3, 20], axis=0))
    again = ActivationStatistics.from_bytes(found.to_bytes())
    assert again.summary() == found.summary()


def test_of_nothing() -> None:
    summary = ActivationStatistics(3).summary()
    assert summary["num_vectors"] == 0
    assert summary["mean_vector"] == [0.0, 0.0, 0.0]
    found = ActivationStatistics(2)
    found.add(torch.full((2, 2), torch.nan))
    assert found.summary()["num_nan"] == 4
    assert ActivationStatistics.from_bytes(found.to_bytes()).summary() == found.summary()


def test_other_widths_do_not_merge() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        ActivationStatistics(4).merge(ActivationStatistics(3))
    assert caught.value.reason == "WRONG_STATE"
    assert {"3", "4"} <= words(caught.value.message)


@pytest.mark.parametrize("data", [b"", b"nonsense", ActivationStatistics(3).to_bytes()[:-1]])
def test_malformed_bytes(data: bytes) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        ActivationStatistics.from_bytes(data)
    assert caught.value.reason == "MESSAGE_INVALID"
