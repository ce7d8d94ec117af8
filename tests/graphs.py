"""Random small models with branches: sums, concatenations, layers that are called again."""

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

Step = tuple[str, tuple[int, ...], str]  # what is done, with which values, by which module


class Graph(nn.Module):
    """Computes ``steps`` one after another on values of their own, the first of them the input [N, 3, 6, 6].

    What comes out are the sums over the map of all values that no step reads, and what a linear layer makes of them.
    """

    def __init__(self, steps: list[Step], parts: dict[str, nn.Module], head: nn.Linear) -> None:
        super().__init__()
        self.steps = steps
        self.left = unread(steps)
        self.parts = nn.ModuleDict(parts)
        self.head = head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for kind, sources, part in self.steps:
            given: list[Any] = [values[i] for i in sources]
            if kind == "across":  # a linear layer over the channels
                values.append(self.parts[part](given[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
            elif part:
                values.append(self.parts[part](*given))
            elif kind == "add":
                values.append(given[0] + given[1])
            elif kind == "mul":
                values.append(given[0] * torch.sigmoid(given[1]))
            elif kind == "cat":
                values.append(torch.cat(given, dim=1))
            else:  # in place
                values.append((given[0] * 1).relu_())
        sums = [values[i].sum((2, 3)) for i in self.left]
        return sums[0], self.head(torch.cat(sums, dim=1))


def unread(steps: list[Step]) -> list[int]:
    """Values that no step reads."""
    read = {source for _, sources, _ in steps for source in sources}
    return [i for i in range(len(steps) + 1) if i not in read]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """With batch norm statistics and weights of their own, in eval mode."""
    channels = [3]  # of each value; maps have one size
    steps: list[Step] = []
    parts: dict[str, nn.Module] = {"across": nn.Linear(4, 4)}
    kinds = st.sampled_from(
        ["conv", "conv", "conv", "again", "norm", "relu", "in place", "add", "mul", "cat", "across"]
    )
    for number in range(draw(st.integers(1, 9))):
        kind = draw(kinds)
        first = draw(st.integers(0, len(channels) - 1))
        width, same = channels[first], [i for i, each in enumerate(channels) if each == channels[first]]
        second, part = draw(st.sampled_from(same)), ""
        if kind == "again":
            known = [name for name, each in parts.items() if isinstance(each, nn.Conv2d) and each.in_channels == width]
            part = draw(st.sampled_from(known)) if known else ""
            kind = "conv" if known else "relu"
        elif kind == "conv":
            groups = draw(st.sampled_from([1, width]))
            wide = draw(st.sampled_from([width, 2 * width])) if groups > 1 else draw(st.sampled_from([3, 4]))
            kernel, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
            part = f"part{number}"
            parts[part] = nn.Conv2d(
                width, wide, kernel, 1, dilation * (kernel // 2), dilation, groups, bias=draw(st.booleans())
            )
        elif kind == "norm":
            part = f"part{number}"
            parts[part] = nn.BatchNorm2d(width, affine=draw(st.booleans()))
        if kind == "across" and width == 4:
            part = "across"
        elif kind in ("relu", "across"):
            kind = "relu"
            part = f"part{number}"
            parts[part] = nn.ReLU(inplace=False)
        if kind == "cat" and 2 * width > 24:
            kind = "add"
        sources = (first, second) if kind in ("add", "mul", "cat") else (first,)
        steps.append((kind, sources, part))
        made = parts[part] if part else None
        channels.append(made.out_channels if isinstance(made, nn.Conv2d) else width * (1 + (kind == "cat")))
    model = Graph(steps, parts, nn.Linear(sum(channels[i] for i in unread(steps)), 2))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.is_floating_point():
                low = 0.5 if name.endswith("running_var") else -1
                value.copy_(torch.from_numpy(random.uniform(low, 1, tuple(value.shape))))
    return model.eval()
