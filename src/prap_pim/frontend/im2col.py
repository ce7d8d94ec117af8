"""A layer's inputs laid out as im2col: what drives its crossbars at each output position."""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from prap_pim.ir.network import Layer


class Rows:
    """Positions of a batch, of which some are laid out at a time.

    Args:
        layer: its kernel, stride, padding and dilation count.
        x: [N, C, *map] for a convolution, [N, ..., C] for a linear layer.
        fill: what a convolution's padding holds.
    """

    def __init__(self, layer: Layer, x: Tensor, fill: int = 0) -> None:
        self._width = layer.rows
        if layer.kind == "linear":
            self._places: tuple[int, ...] = ()
            self._windows = x.reshape(-1, layer.rows)
            return
        margins = [each for margin in reversed(layer.padding) for each in (margin, margin)]
        windows = functional.pad(x, margins, value=fill) if any(margins) else x
        for i, step in enumerate(layer.stride):
            windows = windows.unfold(2 + i, layer.reach[i], step)  # in the end a view [N, C, *output map, *reach]
        for i, step in enumerate(layer.dilation):
            windows = windows.movedim(x.ndim + i, 0)[::step].movedim(0, x.ndim + i)
        self._places = (len(x), *windows.shape[2 : x.ndim])
        self._windows = windows.movedim(1, x.ndim - 1)  # [N, *output map, C, *kernel]

    def at(self, places: Tensor) -> Tensor:
        """
        Args:
            places: int64 [n], positions among those of the batch (``positions_of``), in the order of inputs.

        Returns:
            [n, layer.rows], of the type of ``x``.
        """
        if not self._places:
            return self._windows[places]
        return self._windows[torch.unravel_index(places, self._places)].reshape(len(places), self._width)

    def transposed(self) -> Tensor:
        """Of all positions, [layer.rows, positions]."""
        if not self._places:
            return self._windows.T
        order = range(len(self._places), self._windows.ndim)
        return self._windows.permute(*order, *range(len(self._places))).reshape(self._width, -1)


def rows_of_pairs(
    layer: Layer, places: Sequence[tuple[Tensor, Tensor, Tensor]], fills: tuple[int, int], most: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of two inputs of a layer at the same places, of several batches at a time.

    Args:
        layer: as for ``Rows``.
        places: of every batch one input and another, as for ``Rows``, and positions, int64; or one input twice.
        fills: of the one and of the other.
        most: numbers laid out at a time, about.

    Yields:
        [n, layer.rows] of the one and of the other; the same tensor where they are one.
    """
    held: list[tuple[Tensor, Tensor]] = []
    count, limit = 0, max(1, most // layer.rows)
    for x, y, where in places:
        now = Rows(layer, x, fills[0])
        then = now if y is x else Rows(layer, y, fills[1])
        for some in torch.split(where, limit):
            one = now.at(some)
            held.append((one, one if y is x else then.at(some)))
            count += len(some)
            if count >= limit:
                yield _merged(held)
                held, count = [], 0
    if held:
        yield _merged(held)


def _merged(held: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    one = torch.cat([x for x, _ in held])
    return one, one if all(y is x for x, y in held) else torch.cat([y for _, y in held])


def positions_of(layer: Layer, x: Tensor) -> int:
    """Output positions of all inputs of a batch."""
    if layer.kind == "linear":
        return x.numel() // layer.rows
    return len(x) * prod(layer.output_map(x.shape[2:]))
