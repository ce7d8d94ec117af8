"""Moments against loops over Python's integers, the metric against numpy, im2col rows against those of the hardware."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.frontend.im2col import Rows
from prap_pim.ir.network import Layer
from prap_pim.methods.calibrate.hessian import Metric, Moments
from tests.reference.calibrate import slow_covariance
from tests.reference.im2col import im2col
from tests.strategies import examples


class Found(NamedTuple):
    count: int
    covariance: np.ndarray
    cross: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray


def moments_of(x: np.ndarray, y: np.ndarray | None = None, cuts: tuple[int, ...] = ()) -> Found:
    """Of int8 rows that come in parts."""
    moments = Moments(x.shape[1])
    for a, b in zip(np.split(x, cuts), np.split(x if y is None else y, cuts), strict=True):
        rows = torch.from_numpy(a).float()
        moments.add(rows, rows if y is None else torch.from_numpy(b).float())
    means = moments.means()
    return Found(moments.count, *moments.covariances(), *means)


def same_bits(first: Found, second: Found) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@st.composite
def int8_rows(draw: st.DrawFn) -> np.ndarray:
    """Two matrices [2, n, rows]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low, high = draw(st.sampled_from([(-128, 128), (0, 128), (-128, -127), (-1, 2), (0, 1)]))
    return rng.integers(low, high, (2, draw(st.integers(1, 9)), draw(st.integers(1, 5)))).astype(np.int8)


@given(int8_rows(), st.lists(st.integers(0, 9), max_size=3))
@examples(50)
def test_moments_are_those_of_a_loop_however_they_come(rows: np.ndarray, cuts: list[int]):
    x, y = rows
    found = moments_of(x, y, tuple(sorted(cuts)))
    assert found.count == len(x)
    close = {"rtol": 1e-12, "atol": 1e-9}
    np.testing.assert_allclose(found.covariance, slow_covariance(x, x), **close)
    np.testing.assert_allclose(found.cross, slow_covariance(y, x), **close)
    np.testing.assert_allclose(
        (found.x_mean, found.y_mean), (x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)), **close
    )
    assert same_bits(found, moments_of(x, y))
    alone = moments_of(x)
    assert np.array_equal(alone.covariance, found.covariance)
    assert np.array_equal(alone.cross, alone.covariance)
    apart = Moments(x.shape[1])  # where y was x first and is another then
    for first, second in ((x, x), (x, y)):
        same = torch.from_numpy(first).float()
        apart.add(same, same if second is first else torch.from_numpy(second).float())
    np.testing.assert_allclose(
        apart.covariances()[1], slow_covariance(np.concatenate([x, y]), np.concatenate([x, x])), **close
    )


@pytest.mark.parametrize("value", [-128, 127])
def test_sums_of_many_large_values_are_exact(value: int):
    """float32 alone holds whole numbers up to 2**24 only, which 1040 squares of 127 reach."""
    x = np.full((5000, 3), value, np.int8)
    x[1::2, 1] = value + 1 if value < 0 else value - 1
    found = moments_of(x, cuts=(7, 3000))
    assert same_bits(found, moments_of(x))
    wide = x.astype(np.int64)
    square = (wide.T @ wide).astype(np.float64) / len(x)
    mean = wide.mean(0)
    assert np.array_equal(found.covariance, square - np.outer(mean, mean))


def test_the_number_of_threads_changes_no_bit():
    x = np.random.default_rng(0).integers(-128, 128, (3000, 90)).astype(np.int8)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(moments_of(x))
    finally:
        torch.set_num_threads(before)
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
    np.testing.assert_allclose(found[0].covariance, np.cov(x.T.astype(np.float64), bias=True), rtol=1e-9, atol=1e-7)


def test_without_rows_all_moments_are_zero():
    found = Moments(3)
    assert found.means()[0].tolist() == [0, 0, 0]
    assert not any(each.any() for each in found.covariances())


def inputs(kind: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (200, 24)).astype(np.int8)
    if kind == "few rows":
        x = x[:5]
    elif kind == "one row":
        x = x[:1]
    elif kind == "dead":
        x[:, ::3] = 0
    elif kind == "constant":
        x[:] = 9
    elif kind == "zero":
        x[:] = 0
    elif kind == "dependent":
        x[:, 1::2] = x[:, ::2]
    return x


INPUTS = ["usual", "few rows", "one row", "dead", "constant", "zero", "dependent"]


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("damping", [0.01, 1e-6, 10])
def test_metric(kind: str, damping: float):
    covariance = moments_of(inputs(kind)).covariance
    metric = Metric.of(covariance.copy(), damping)
    mean = np.trace(covariance) / 24
    ridge = np.diag(metric.hessian - covariance)
    np.testing.assert_allclose(ridge, damping * mean if mean > 0 else 1, rtol=1e-6)
    assert np.array_equal(metric.factor, np.triu(metric.factor))
    size = np.abs(metric.hessian).max()
    np.testing.assert_allclose(metric.factor @ metric.factor.T, metric.hessian, rtol=1e-9, atol=1e-12 * size)
    right = np.random.default_rng(1).standard_normal((24, 5))
    back = metric.hessian @ metric.solve(right)
    np.testing.assert_allclose(back, right, atol=1e-6)
    if damping == 0.01:
        np.testing.assert_allclose(metric.solve(right), np.linalg.solve(metric.hessian, right), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("first", [1, 7, 23, 24])
def test_the_factor_tells_what_the_rows_after_cannot_make_good(first: int):
    """The cost of an error in the first rows, once the others are chosen best: the Schur complement."""
    metric = Metric.of(moments_of(inputs("usual")).covariance, 0.01)
    error = np.random.default_rng(2).standard_normal(first)
    front, between = metric.hessian[:first, :first], metric.hessian[:first, first:]
    behind = metric.hessian[first:, first:]
    best = -np.linalg.solve(behind, between.T @ error)
    whole = np.concatenate([error, best])
    least = float(((error @ metric.factor[:first, :first]) ** 2).sum())
    assert least == pytest.approx(whole @ metric.hessian @ whole, rel=1e-9)
    assert least == pytest.approx(error @ (front - between @ np.linalg.solve(behind, between.T)) @ error, rel=1e-9)


def layer(kind: str, channels: int, output: tuple[int, ...], **geometry: tuple[int, int]) -> Layer:
    kernel = geometry.pop("kernel", ())
    return Layer(
        name="layer",
        kind=kind,
        weight=np.zeros((2, channels, *kernel), np.float32),
        filter_scale=np.ones(2, np.float32),
        filter_bias=np.zeros(2, np.float32),
        input_shape=(channels,),
        output_shape=output,
        sources=(),
        **geometry,
    )


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Layer, np.ndarray]:
    """Any kernel, stride, padding and dilation, height and width apart, and a batch for it."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [max(1, r - 2 * p) + draw(st.integers(0, 4)) for r, p in zip(reach, padding, strict=True)]
    out = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, padding, reach, stride, strict=True)]
    channels = draw(st.integers(1, 3))
    x = np.random.default_rng(draw(st.integers(0, 99))).integers(-128, 128, (draw(st.integers(1, 3)), channels, *size))
    geometry = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return layer("conv", channels, (2, *out), **geometry), x.astype(np.int8)


@given(convolutions(), st.sampled_from([0, 0, -128, 5]), st.integers(0, 2**32))
@examples(60)
def test_rows_are_those_that_drive_the_crossbars(case: tuple[Layer, np.ndarray], fill: int, seed: int):
    """As NumPy pads and cuts them out, whatever the padding holds."""
    conv, x = case
    total = len(x) * conv.positions
    places = np.random.default_rng(seed).integers(0, total, 7)
    wide = np.pad(x, [(0, 0), (0, 0), *((margin, margin) for margin in conv.padding)], constant_values=fill)
    expected = im2col(replace(conv, padding=(0, 0)), wide)
    assert len(expected) == total
    for chosen in (places, np.arange(total)):
        found = Rows(conv, torch.from_numpy(x), fill).at(torch.from_numpy(chosen))
        assert found.dtype == torch.int8
        assert np.array_equal(found.numpy(), expected[chosen])


def test_rows_of_a_linear_layer_count_every_position():
    x = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)  # two inputs of three positions
    places = torch.tensor([5, 0, 3])
    assert Rows(layer("linear", 4, (3, 2)), x).at(places).tolist() == [[20, 21, 22, 23], [0, 1, 2, 3], [12, 13, 14, 15]]
