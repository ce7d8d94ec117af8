"""Random layers of the kinds that make trouble: ties, zero filters, zero layers, odd groups, few filters."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from prap_pim.ir.network import Layer

KERNELS = [(), (1, 1), (3, 3), (2, 2), (1, 3), (5, 5)]


def fill(rng: np.random.Generator, style: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    weight = {
        "normal": lambda: rng.standard_normal(shape),
        "coarse": lambda: rng.integers(-3, 4, shape),  # ties everywhere
        "sparse": lambda: rng.integers(-1, 2, shape) * (rng.random(shape) < 0.2),
        "wide range": lambda: (
            rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 1, (shape[0],) + (1,) * (len(shape) - 1))
        ),
        "int8 steps": lambda: rng.integers(-127, 128, shape),
        "zero": lambda: np.zeros(shape),
    }[style]().astype(np.float32)
    weight[rng.random(shape[0]) < 0.15] = 0  # some filters all zero
    return weight


STYLES = ["normal", "coarse", "sparse", "wide range", "int8 steps", "zero"]


@st.composite
def weights(draw: st.DrawFn, kernels: list[tuple[int, ...]] = KERNELS) -> NDArray[np.float32]:
    """float32 [O, C] or [O, C, kh, kw]."""
    filters = draw(st.sampled_from([1, 2, 3, 7, 10, 40]))
    channels = draw(st.integers(1, 21))
    shape = (filters, channels, *draw(st.sampled_from(kernels)))
    return fill(np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(STYLES)), shape)


def layer_of(weight: NDArray[np.float32], name: str = "features.3") -> Layer:
    filters, channels = weight.shape[:2]
    return Layer(
        name=name,
        kind="conv" if weight.ndim == 4 else "linear",
        weight=weight,
        filter_scale=np.ones(filters, np.float32),
        filter_bias=np.zeros(filters, np.float32),
        input_shape=(channels, 8, 8) if weight.ndim == 4 else (channels,),
        output_shape=(filters, 8, 8) if weight.ndim == 4 else (filters,),
        sources=(),
    )
