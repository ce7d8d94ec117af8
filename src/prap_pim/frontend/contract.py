"""Products of activations with a constant weight in any order of axes, as products with matrices.

Axes have labels, as in an einsum. What activations and weight share and is summed is the matrices' input, what the
weight alone has are their filters, what the activations alone have are positions. What both have and is kept tells one
matrix from another: experts, each a layer by itself. So does the first axis of a weight of three axes or more that is
no input: it is a stack of matrices, as mixtures of experts keep them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from prap_pim.frontend.rows import merge_rows, take_rows

Labels = tuple[str, ...]
View = tuple[Callable[..., Any], tuple[Any, ...]]
Apply = Callable[..., Any]  # puts a function of earlier values into a graph: the function, then its arguments
ONE = "1"  # begins the label of an axis of size 1 that stands for any size


@dataclass(frozen=True)
class Contraction:
    """A product of activations with a weight.

    Attributes:
        given, held, wanted: labels of the axes of the activations, of the weight and of the result.
        sizes: of the weight's axes.
        route: label of the axis whose every row is multiplied by the matrix of an expert of its own; the weight's axis
            of experts has it, too. Empty: all are multiplied by all.
        stacked: whether the first axis of a larger weight may tell experts apart.
    """

    given: Labels
    held: Labels
    wanted: Labels
    sizes: tuple[int, ...]
    route: str = ""
    stacked: bool = True

    @property
    def problem(self) -> str:
        """Why it is no product with matrices; empty if it is."""
        if len(set(self.given)) < len(self.given) or len(set(self.held)) < len(self.held):
            return "it reads a diagonal"
        if not self.inner:
            return "nothing is summed"
        if self.route and len(self.experts) > 1:
            return "each row has several weights"
        return "a part of the weight is summed" if any(self._size(x) > 1 for x in self._lost) else ""

    @property
    def inner(self) -> Labels:
        """Of the matrices' inputs."""
        return tuple(x for x in self.held if x in self.given and x not in self.wanted)

    @property
    def experts(self) -> Labels:
        """What tells one matrix from another."""
        both = tuple(x for x in self.held if x in self.given and x in self.wanted)
        alone = self.stacked and len(self.held) > 2 and self.held[0] not in self.given and self.held[0] in self.wanted
        return both or (self.held[:1] if alone else ())

    @property
    def filters(self) -> Labels:
        """Of the matrices' outputs."""
        return tuple(x for x in self.held if x not in self.given and x in self.wanted and x not in self.experts)

    @property
    def places(self) -> Labels:
        """Of the positions."""
        return tuple(x for x in self.given if x not in self.held and x in self.wanted)

    @property
    def _lost(self) -> Labels:
        return tuple(x for x in self.held if x not in self.given and x not in self.wanted)

    def _size(self, label: str) -> int:
        return self.sizes[self.held.index(label)]

    @property
    def count(self) -> int:
        """Matrices."""
        return prod(map(self._size, self.experts))

    @property
    def matrix(self) -> tuple[int, int]:
        """Filters and inputs of each."""
        return prod(map(self._size, self.filters)), prod(map(self._size, self.inner))

    def views(self, expert: int) -> tuple[View, ...]:
        """What leads from the weight to a matrix, [*filters, *inner]."""
        order = [self.held.index(x) for x in (*self.experts, *self._lost, *self.filters, *self.inner)]
        turn: tuple[View, ...] = () if order == sorted(order) else ((torch.permute, (tuple(order),)),)
        chosen = (*self._place(expert), *(0 for _ in self._lost))
        return (*turn, *((torch.select, (0, each)) for each in chosen))

    def _place(self, expert: int) -> tuple[int, ...]:
        sizes = tuple(map(self._size, self.experts))
        return tuple(int(i) for i in np.unravel_index(expert, sizes)) if sizes else ()

    def computed(self, apply: Apply, x: Any, layer: Callable[[int, Any], Any], experts: Any = None) -> Any:
        """The product in a graph.

        Args:
            apply: see ``Apply``.
            x: the activations.
            layer: what the matrix of an expert makes of activations [..., inner]: [..., filters].
            experts: of a route, the number of each row's expert.
        """
        inside = [] if self.route else [x for x in self.experts if x in self.given]
        x, labels = self._without_others(apply, x)
        order = [*([self.route] if self.route else []), *self.places, *inside, *self.inner]
        x = _permuted(apply, x, [labels.index(each) for each in order])
        if len(self.inner) > 1:
            x = apply(torch.flatten, x, -len(self.inner))
        if self.route:
            parts = [layer(e, apply(take_rows, x, experts, e)) for e in range(self.count)]
            y, labels = apply(merge_rows, experts, *parts), [self.route, *self.places]
        elif self.experts:
            parts = [layer(e, self._part(apply, x, e, bool(inside))) for e in range(self.count)]
            y, labels = apply(torch.stack, parts, len(self.places)), [*self.places, *self.experts]
            if len(self.experts) > 1:
                y = apply(torch.unflatten, y, len(self.places), tuple(map(self._size, self.experts)))
        else:
            y, labels = layer(0, x), list(self.places)
        if not self.filters:
            y = apply(torch.squeeze, y, -1)
        elif len(self.filters) > 1:
            y = apply(torch.unflatten, y, -1, tuple(map(self._size, self.filters)))
        labels += self.filters
        return _permuted(apply, y, [labels.index(each) for each in self.wanted])

    def _without_others(self, apply: Apply, x: Any) -> tuple[Any, list[str]]:
        """Activations without the axes that neither weight nor result has: they are summed first."""
        others = [i for i, label in enumerate(self.given) if label not in self.held and label not in self.wanted]
        for i in reversed(others):
            x = apply(torch.select, x, i, 0) if self.given[i].startswith(ONE) else apply(torch.sum, x, i)
        return x, [label for i, label in enumerate(self.given) if i not in others]

    def _part(self, apply: Apply, x: Any, expert: int, inside: bool) -> Any:
        """What an expert reads."""
        for i in self._place(expert) if inside else ():
            x = apply(torch.select, x, len(self.places), i)
        return x


def _permuted(apply: Apply, x: Any, order: Sequence[int]) -> Any:
    return x if list(order) == sorted(order) else apply(torch.permute, x, tuple(order))


def of_matmul(one: Sequence[Any], other: Sequence[Any]) -> tuple[Labels, Labels, Labels]:
    """Labels of two operands of a matmul, by their shapes, and of its result."""
    own: tuple[list[str], list[str]] = ([], [])
    kept = []
    for i in range(max(len(one), len(other)) - 2, 0, -1):  # batch axes, counted from behind
        sizes = [shape[-2 - i] if len(shape) > 1 + i else None for shape in (one, other)]
        kept.append(f"b{i}")
        for labels, size, beside in zip(own, sizes, reversed(sizes), strict=True):
            if size is not None:
                stretched = beside is not None and _is_one(size) and not _is_one(beside)
                labels.append(f"{ONE}{i}" if stretched else f"b{i}")
    rows, columns = ["m"] if len(one) > 1 else [], ["n"] if len(other) > 1 else []
    return (*own[0], *rows, "k"), (*own[1], "k", *columns), (*kept, *rows, *columns)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def of_einsum(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """Labels of the operands of an einsum, and of its result."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    given = []
    for term, rank in zip(terms.split(","), ranks, strict=True):
        before, dots, after = term.partition("...")
        more = [f".{i}" for i in range(rank - len(before) - len(after), 0, -1)] if dots else []
        given.append((*before, *more, *after))
    dotted = sorted({x for labels in given for x in labels if x.startswith(".")}, key=lambda x: -int(x[1:]))
    if not arrow:
        once = sorted(x for x in set(terms) - set(",.") if terms.count(x) == 1)
        return given, (*dotted, *once)
    before, dots, after = result.partition("...")
    return given, (*before, *(dotted if dots else ()), *after)


def equation(given: Sequence[Labels], wanted: Labels) -> str:
    """An einsum of these labels."""
    letters = {x: chr(ord("a") + i) for i, x in enumerate(dict.fromkeys(x for labels in given for x in labels))}
    terms = ",".join("".join(letters[x] for x in labels) for labels in given)
    return f"{terms}->{''.join(letters[x] for x in wanted)}"
