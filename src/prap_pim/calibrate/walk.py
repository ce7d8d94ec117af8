"""A traced network, executed node by node on all calibration inputs, so that each layer is seen once and in order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

Value = Any  # of a node: a tensor, a number, or a tuple of these


class Walk:
    """The values of a graph's nodes for every batch; each is dropped after its last use.

    Args:
        module: a traced network in eval mode.
        batches: inputs, a tuple of the network's input tensors [n, ...] each.
        remember: replace the running statistics of each batch norm by those of all batches as it is passed. If not,
            every batch is normalised by its own, and the module is left as it is.
    """

    def __init__(self, module: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]], remember: bool) -> None:
        self._module, self._remember = module, remember
        self._modules = dict(module.named_modules(remove_duplicate=False))
        self._interpreter = fx.Interpreter(module)
        self._values: list[dict[fx.Node, Value]] = [{} for _ in batches]
        self._batches = [tuple(each.clone() for each in batch) for batch in batches]  # a network may work in place
        self._placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._ends: dict[fx.Node, list[fx.Node]] = {}  # values that are used for the last time at a node
        last: dict[fx.Node, fx.Node] = {}
        for node in module.graph.nodes:
            last |= dict.fromkeys(node.all_input_nodes, node)
        for value, node in last.items():
            self._ends.setdefault(node, []).append(value)

    def nodes(self) -> Iterator[fx.Node]:
        """In order. Between one and the next, ``run`` or ``put`` must give the node its values."""
        yield from self._module.graph.nodes

    def inputs(self, node: fx.Node) -> list[Tensor]:
        """What a layer's node reads, for every batch."""
        return [values[node.all_input_nodes[0]] for values in self._values]

    def run(self, node: fx.Node) -> None:
        """Compute a node for every batch."""
        norm = self._norm(node)
        if norm is not None and self._remember:
            _measure(norm, self.inputs(node))
        if node.op == "placeholder":
            at = self._placeholders.index(node)
            self.put(node, [batch[at] for batch in self._batches])
            return
        self.put(node, [self._compute(node, values, norm) for values in self._values])

    def put(self, node: fx.Node, outcomes: Sequence[Value]) -> None:
        """Give a node its value for every batch."""
        for values, outcome in zip(self._values, outcomes, strict=True):
            values[node] = outcome
            for done in self._ends.get(node, []):
                del values[done]

    def first_batch_from(self, node: fx.Node, outcome: Value) -> Value:
        """What the network gives for the first batch were ``outcome`` the value of ``node``."""
        values = {key: value.clone() if isinstance(value, Tensor) else value for key, value in self._values[0].items()}
        values[node] = outcome
        later = False
        for other in self._module.graph.nodes:
            if later:
                values[other] = self._compute(other, values, self._norm(other))
                for done in self._ends.get(other, []):
                    values.pop(done, None)
            later = later or other is node
        return values[other]

    def _norm(self, node: fx.Node) -> _BatchNorm | None:
        called = self._modules.get(str(node.target)) if node.op == "call_module" else None
        return called if isinstance(called, _BatchNorm) and called.track_running_stats else None

    def _compute(self, node: fx.Node, values: Mapping[fx.Node, Value], norm: _BatchNorm | None) -> Value:
        if norm is not None and not self._remember:
            return _by_itself(norm, values[node.all_input_nodes[0]])
        self._interpreter.env = dict(values)
        return self._interpreter.run_node(node)


def _by_itself(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Normalised by the batch's own statistics; by the running ones if a channel has one value only."""
    alone = x.numel() == x.shape[1]
    statistics = (norm.running_mean, norm.running_var) if alone else (None, None)
    return functional.batch_norm(x, *statistics, norm.weight, norm.bias, training=not alone, eps=norm.eps)


def _measure(norm: _BatchNorm, batches: Sequence[Tensor]) -> None:
    """Put the mean and variance of all batches together into a batch norm."""
    axes = [axis for axis in range(batches[0].ndim) if axis != 1]
    count = sum(x.numel() // x.shape[1] for x in batches)
    if count < 2:
        return
    mean = torch.stack([x.sum(axes, dtype=torch.float64) for x in batches]).sum(0) / count
    shape = [1, -1] + [1] * (batches[0].ndim - 2)
    square = torch.stack([((x - mean.view(shape)) ** 2).sum(axes) for x in batches]).sum(0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(square / (count - 1))  # as torch's own statistics
