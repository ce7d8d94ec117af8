"""A traced network, executed node by node on all calibration inputs, so that each layer is seen once and in order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from prap_pim.frontend.batchnorm import Statistics, move, moved

Value = Any  # of a node: a tensor, a number, or a tuple of these


class Walk:
    """The values of a graph's nodes for every batch; each is dropped after its last use.

    Args:
        module: a traced network in eval mode.
        batches: inputs, a tuple of the network's input tensors [n, ...] each.
        graph: whose nodes are walked, if another module of the same graph brought them.
    """

    def __init__(
        self, module: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]], graph: fx.Graph | None = None
    ) -> None:
        self._graph = graph or module.graph
        self._modules = dict(module.named_modules(remove_duplicate=False))
        self._interpreter = fx.Interpreter(module, garbage_collect_values=False, graph=self._graph)
        self._values: list[dict[fx.Node, Value]] = [{} for _ in batches]
        self._batches = batches
        self._placeholders = [node for node in self._graph.nodes if node.op == "placeholder"]
        self._ends: dict[fx.Node, list[fx.Node]] = {}  # values that are used for the last time at a node
        last: dict[fx.Node, fx.Node] = {}
        for node in self._graph.nodes:
            last |= dict.fromkeys(node.all_input_nodes, node)
        for value, node in last.items():
            self._ends.setdefault(node, []).append(value)

    def nodes(self) -> Iterator[fx.Node]:
        """In order. Between one and the next, ``run``, ``apply`` or ``take`` must give the node its values."""
        yield from self._graph.nodes

    def inputs(self, node: fx.Node) -> list[Tensor]:
        """What a layer's node reads, for every batch."""
        return [values[node.all_input_nodes[0]] for values in self._values]

    def run(self, node: fx.Node) -> None:
        """Compute a node for every batch."""
        for i, values in enumerate(self._values):
            if node.op == "placeholder":  # a copy: a network may work in place
                self._put(values, node, self._batches[i][self._placeholders.index(node)].clone())
            else:
                self._put(values, node, self._compute(node, values))

    def apply(self, node: fx.Node, function: Callable[[Tensor], Value]) -> None:
        """Give a node what a function makes of what it reads, for every batch."""
        for values in self._values:
            self._put(values, node, function(values[node.all_input_nodes[0]]))

    def take(self, node: fx.Node, other: "Walk") -> None:
        """Give a node the values that another walk has just given it."""
        for values, its in zip(self._values, other._values, strict=True):
            self._put(values, node, its[node])

    def part(self) -> None:
        """Own copies of the values that were taken: either network may work in place."""
        for values in self._values:
            values.update({node: cloned(value) for node, value in values.items()})

    def norm(self, node: fx.Node) -> _BatchNorm | None:
        """The batch norm with running statistics that a node is, if it is one."""
        called = self._modules.get(str(node.target)) if node.op == "call_module" else None
        return called if isinstance(called, _BatchNorm) and called.track_running_stats else None

    @property
    def outcome(self) -> list[Value]:
        """What the network gives for every batch, once all nodes have their values."""
        return [values[next(reversed(self._graph.nodes))] for values in self._values]

    def _put(self, values: dict[fx.Node, Value], node: fx.Node, outcome: Value) -> None:
        values[node] = outcome
        for done in self._ends.get(node, []):
            del values[done]

    def _compute(self, node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
        self._interpreter.env = dict(values)
        try:
            return self._interpreter.run_node(node)
        finally:
            self._interpreter.env = {}  # or it holds on to what is dropped here


def cloned(value: Value) -> Value:
    """A copy of a tensor, or of those in a tuple or list."""
    if isinstance(value, tuple | list):
        return type(value)(cloned(each) for each in value)
    return value.clone() if isinstance(value, Tensor) else value


class Probe(Walk):
    """A walk of some inputs through the original network that can tell what other values of a node would lead to.

    Batch norms after that node move by what these change, as after compression.

    Attributes:
        wanted: what the network gives, for every batch.
    """

    def __init__(self, module: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]]) -> None:
        super().__init__(module, batches)
        self._seen: dict[fx.Node, Statistics] = {}
        whole = Walk(module, batches)
        for node in whole.nodes():
            if whole.norm(node) is not None:
                self._seen[node] = Statistics.of(whole.inputs(node))
            whole.run(node)
        self.wanted = whole.outcome

    def from_here(self, node: fx.Node, function: Callable[[Tensor], Value]) -> list[Value]:
        """What the network gives for every batch were a node another function of what it reads, which is known."""
        every = [{key: cloned(value) for key, value in values.items()} for values in self._values]
        for values in every:
            values[node] = function(values[node.all_input_nodes[0]])
        later = False
        for other in self._graph.nodes:
            if later:
                norm = self.norm(other)
                compute = self._compute if norm is None else self._normed(other, norm, every)
                for values in every:
                    values[other] = compute(other, values)
                    for done in self._ends.get(other, []):
                        values.pop(done, None)
            later = later or other is node
        return [values[other] for values in every]

    def _normed(
        self, node: fx.Node, norm: _BatchNorm, every: Sequence[Mapping[fx.Node, Value]]
    ) -> Callable[[fx.Node, Mapping[fx.Node, Value]], Tensor]:
        """A batch norm with the statistics that fit what it reads now."""
        before, read = self._seen[node], node.all_input_nodes[0]
        mean, variance = norm.running_mean, norm.running_var
        if before.count > 1:
            mean, variance = moved(norm, before, Statistics.of([values[read] for values in every]))
        affine = norm.weight, norm.bias
        return lambda _, values: functional.batch_norm(values[read], mean, variance, *affine, eps=norm.eps)


class Pair:
    """A network and a copy that is being changed, executed side by side on the same inputs.

    Until something is changed they are one and are computed once. From there on the batch norms of the copy move by
    what the changes did to their inputs (``capture.batchnorm``).

    Args:
        original: a traced network in eval mode.
        changed: another module of the same graph; its batch norms are changed in place.
        batches: as for ``Walk``.
    """

    def __init__(
        self, original: fx.GraphModule, changed: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]]
    ) -> None:
        self.before = Walk(original, batches)
        self.after = Walk(changed, batches, original.graph)
        self.differ = False

    def nodes(self) -> Iterator[fx.Node]:
        """As ``Walk.nodes``; ``run`` or ``change`` must give each its values."""
        yield from self.before.nodes()

    def run(self, node: fx.Node) -> None:
        """Compute a node in both."""
        if not self.differ:
            self.before.run(node)
            self.after.take(node, self.before)
            return
        norm = self.after.norm(node)
        if norm is not None:
            move(norm, Statistics.of(self.before.inputs(node)), Statistics.of(self.after.inputs(node)))
        self.after.run(node)
        self.before.run(node)

    def change(self, node: fx.Node, function: Callable[[Tensor], Value]) -> None:
        """Compute a node in the original, and by a function in the copy."""
        if not self.differ:
            self.after.part()
            self.differ = True
        self.after.apply(node, function)
        self.before.run(node)
