"""A transformer as it is served: a prompt of any length, or one token more with a key-value cache.

A network that was traced for two numbers of tokens tells how each of its counts depends on that number: not at all, by
the token, or by pairs of tokens (attention). So counts follow for any number, and for the last token alone: that has a
row of every product, and a share of what is done by the token. What does not depend on the tokens, an encoder beside
them, was done with the prompt.

Keys and values are what attention's products read beside their first operand. They are kept in the digital memory, one
activation each as it leaves a layer, before heads that share them are told apart. A prompt writes those of all tokens
and reads each once, a token writes its own and reads all of its context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from prap_pim.common.errors import UserError
from prap_pim.cost.activity import is_free
from prap_pim.ir.network import Call, DigitalOp, Layer, Network, Node, shared_out

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Traced:
    """A network for so many tokens."""

    network: Network
    tokens: int


@dataclass(frozen=True)
class _Count:
    """How a count depends on the number of tokens: ``once + each * tokens + pairs * tokens ** 2``."""

    once: float = 0.0
    each: float = 0.0
    pairs: float = 0.0

    @staticmethod
    def through(one: tuple[int, int], other: tuple[int, int]) -> "_Count":
        """Of two numbers of tokens, each with what was counted: of pairs alone where the counts are as the squares of
        the tokens, else of pairs and tokens where they grow faster than the tokens, else of tokens."""
        (m, p), (n, q) = one, other
        if p == q:
            return _Count(once=p)
        if p * n * n == q * m * m:
            return _Count(pairs=q / n**2)
        pairs = (q / n - p / m) / (n - m)
        if pairs > 0:
            return _Count(each=p / m - pairs * m, pairs=pairs)
        each = (q - p) / (n - m)
        return _Count(once=p - each * m, each=each)

    def of(self, phase: Phase, tokens: int, follows: bool) -> int:
        """Of a prompt of so many tokens, or of the last one of them; ``follows``: of what depends on the tokens."""
        if phase == "prefill":
            return round(self.once + self.each * tokens + self.pairs * tokens**2)
        return round(self.once * follows + self.each + self.pairs * tokens)


def check_phase(phase: Any, context: Any, batch: Any) -> None:
    """
    Raises:
        UserError: there is no such phase, or a number is none.
    """
    if phase not in get_args(Phase):
        raise UserError(f"there is no phase {phase!r}; phases are {', '.join(get_args(Phase))}")
    check_counts(context=context, batch=batch)


def check_counts(**counts: Any) -> None:
    """
    Raises:
        UserError: one of them, by name, is no whole number from 1 on.
    """
    for what, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{what} must be a whole number from 1 on, not {value!r}")


def of_phase(one: Traced, other: Traced, phase: Phase, context: int, batch: int = 1) -> Network:
    """What is computed for a prompt, or for one token.

    Args:
        one, other: the same network for two numbers of tokens.
        phase: "prefill": a prompt of ``context`` tokens; "decode": one token that attends to ``context`` tokens, itself
            among them.
        context: see ``phase``.
        batch: sequences whose keys and values are kept; the work is that of one.

    Raises:
        UserError: as ``check_phase``; or the network is another one for another number of tokens.
    """
    check_phase(phase, context, batch)
    if [node.name for node in one.network] != [node.name for node in other.network]:
        raise UserError(f"network {one.network.name} computes other things for another number of tokens")
    return Network(one.network.name, _Phase(one, other, phase, context, batch).nodes())


class _Phase:
    def __init__(self, one: Traced, other: Traced, phase: Phase, context: int, batch: int) -> None:
        self.one, self.other, self.phase, self.context, self.batch = one, other, phase, context, batch
        self.pairs = list(zip(one.network, other.network, strict=True))
        self.known = {node.name: node for node in one.network}
        self.follows: dict[str, bool] = {}  # whether a node depends on the tokens
        for node, twin in self.pairs:
            given = isinstance(node, DigitalOp) and node.op == "input" and node.output_elements != twin.output_elements
            self.follows[node.name] = given or any(self.follows[source] for source in node.sources)
        self.elements = {
            node.name: self._count(node.output_elements, twin.output_elements) for node, twin in self.pairs
        }

    def nodes(self) -> tuple[Node, ...]:
        found: list[Node] = []
        loads = self._loads()
        for node, twin in self.pairs:
            follows = self.follows[node.name]

            def now(own: int, its: int, follows: bool = follows) -> int:
                return self._count(own, its).of(self.phase, self.context, follows)

            if isinstance(node, Layer) and isinstance(twin, Layer):
                loaded = loads.get(node.name, now(node.positions, twin.positions))
                found.append(_with_positions(node, loaded))
            elif isinstance(node, Call) and isinstance(twin, Call):
                elements = now(node.output_elements, twin.output_elements)
                found.append(replace(node, positions=now(node.positions, twin.positions), output_elements=elements))
            elif isinstance(node, DigitalOp) and isinstance(twin, DigitalOp):
                names = ("input_elements", "output_elements", "macs", "weight_reads")
                counts: dict[str, Any] = {each: now(getattr(node, each), getattr(twin, each)) for each in names}
                found.append(replace(node, **counts, **self._cache(node, twin)))
        return tuple(found)

    def _count(self, own: int, its: int) -> _Count:
        return _Count.through((self.one.tokens, own), (self.other.tokens, its))

    def _loads(self) -> dict[str, int]:
        """Positions of experts: the rows of their product, shared out as they were in the larger network."""
        twins = {node.name: twin for node, twin in self.pairs}
        found: dict[str, int] = {}
        for merge in (node for node in self.one.network.digital if node.op == "mergerows"):
            experts = [each for each in map(self.known.__getitem__, merge.sources) if isinstance(each, Layer)]
            own, its = (sum(_positions(each) for each in net) for net in (experts, [twins[e.name] for e in experts]))
            rows = self._count(own, its).of(self.phase, self.context, True)
            found |= dict(
                zip([e.name for e in experts], shared_out([rows * e.positions / own for e in experts]), strict=True)
            )
        return found

    def _cache(self, node: DigitalOp, twin: DigitalOp) -> dict[str, Any]:
        """Keys and values that a product reads, and what is done to them."""
        if not node.macs or not self.follows[node.name]:
            return {}
        by_pairs = self._count(node.macs, twin.macs).pairs > 0
        stored = read = written = 0
        for source in node.sources[1 : 3 if node.op == "attention" else 2]:
            kept, own = self._kept(source), self.follows[source]
            if own and not (by_pairs and self.elements[source].each > 0):
                continue  # a product within the token
            whole = self.elements[kept].of("prefill", self.context, True)
            stored, read = stored + whole, read + whole
            if self.phase == "prefill" or own:
                written += self.elements[kept].of(self.phase, self.context, own)
        return {"cached": stored * self.batch, "cache_reads": read, "cache_writes": written}

    def _kept(self, name: str) -> str:
        """Of a value and those that it only passes on, the one with the fewest numbers."""
        fewest = name
        while isinstance(node := self.known[name], DigitalOp) and is_free(node) and len(node.sources) == 1:
            (name,) = node.sources
            if self.known[name].output_elements < self.known[fewest].output_elements:
                fewest = name
        return fewest


def _positions(node: Node) -> int:
    assert isinstance(node, Layer)
    return node.positions


def _with_positions(layer: Layer, positions: int) -> Layer:
    """A layer that is applied so often, all at once."""
    if layer.kind == "linear":
        lead: Sequence[int] = (positions,)
        return replace(
            layer, input_shape=(*lead, layer.channels), output_shape=(*lead, layer.filters), more_positions=0
        )
    ones = (1,) * (len(layer.reach) - 1)
    space = ((positions - 1) * layer.stride[0] + layer.reach[0] - 2 * layer.padding[0], *ones)
    return replace(
        layer,
        input_shape=(layer.channels, *(max(1, size) for size in space)),
        output_shape=(layer.filters, positions, *ones),
        more_positions=0,
    )
