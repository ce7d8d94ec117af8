"""All layers on one chip: which tiles they take, and where data goes from tile to tile."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import get_args

from prap_pim.common.errors import UserError
from prap_pim.hardware.chip import Chip
from prap_pim.ir.network import Call, DigitalOp, Layer, Network
from prap_pim.ir.plan import NetworkPlan
from prap_pim.mapping.layer import LayerMapping, Mode, fewest_crossbars, map_layer


@dataclass(frozen=True)
class Feed:
    """Activations that reach a layer's tiles from another node.

    Attributes:
        source_tile: where they come from; None: from outside the chip.
        elements: of the source's output, per inference.
        digital: True: operands of a digital operation done in the layer's first tile; False: inputs of the matrix.
    """

    source_tile: int | None
    elements: int
    digital: bool


@dataclass(frozen=True)
class NetworkMapping:
    """Layers in network order, each with tiles of its own, one after another.

    Attributes:
        mode: how OUs were laid.
        layers: by layer name.
        first_tile: a layer's first tile: outputs are merged there and digital operations on them done there. With
            copies in several tiles they share this work; data from and to the layer is counted as if all of it left
            from the first.
        feeds: what flows to a layer's tiles, by layer name.
        digital_ops: digital operations, by the layer in whose tile they are done; every operation is in one place.
    """

    mode: Mode
    layers: Mapping[str, LayerMapping]
    first_tile: Mapping[str, int]
    feeds: Mapping[str, tuple[Feed, ...]]
    digital_ops: Mapping[str, tuple[DigitalOp, ...]]

    @property
    def crossbars(self) -> int:
        """Crossbars of all copies of all layers."""
        return sum(layer.total_crossbars for layer in self.layers.values())

    @property
    def tiles(self) -> int:
        """Tiles of all copies of all layers."""
        return sum(layer.total_tiles for layer in self.layers.values())

    def shortage(self, network: Network, chip: Chip) -> str | None:
        """What the chip lacks to hold all at once, in a line; None: nothing."""
        if chip.max_tiles is None or self.tiles <= chip.max_tiles:
            return None
        return (
            f"network {network.name} needs {self.crossbars} crossbars in {self.tiles} tiles; chip {chip.name} has "
            f"{chip.max_tiles} tiles of {chip.crossbars_per_tile} crossbars"
        )


def map_network(
    network: Network, plan: NetworkPlan, chip: Chip, mode: Mode = "spread", crossbars: int | None = None
) -> NetworkMapping:
    """Map every layer (see ``map_layer``) once and give each its tiles, in network order.

    A digital operation is done in the tile of the layer that feeds it last; before the first layer, in the first
    layer's.

    Args:
        network, plan, chip: what goes where.
        mode: see ``map_layer``; under a budget "spread" loads the crossbars of a copy evenly and "pack" fills them.
        crossbars: a budget for the whole network: every layer is put on the fewest crossbars that hold it. What is
            left is for copies, and for wider ones (``replicate``); which layers are worth it is for those to say who
            know the times (``share_out``).

    Raises:
        UserError: plan and network do not belong together, or the budget is too small. A network may take more tiles
            than the chip has: then its layers are there in turns.
    """
    _check_same(network, plan)
    if mode not in get_args(Mode):
        raise UserError(f"there is no mode {mode!r}; modes are {', '.join(get_args(Mode))}")
    if crossbars is not None and (isinstance(crossbars, bool) or not isinstance(crossbars, Integral)):
        raise UserError(f"a budget of crossbars must be a whole number, not {crossbars!r}")
    plans = {layer.name: plan.layers[layer.name] for layer in network.layers}
    if crossbars is None:
        layers = {name: map_layer(layer, chip, mode=mode) for name, layer in plans.items()}
    else:
        fewest = {name: fewest_crossbars(layer, chip) for name, layer in plans.items()}
        if sum(fewest.values()) > crossbars:
            raise UserError(
                f"network {network.name} ({plan.method}) needs {sum(fewest.values())} crossbars on chip {chip.name}; "
                f"the budget is {crossbars}"
            )
        layers = {name: map_layer(layer, chip, fewest[name], mode) for name, layer in plans.items()}
    return _place(network, layers, chip, mode)


def replicate(
    network: Network,
    mapping: NetworkMapping,
    chip: Chip,
    copies: Mapping[str, int],
    copy_crossbars: Mapping[str, int] | None = None,
) -> NetworkMapping:
    """The same mapping with ``copies`` of each layer, and tiles for them.

    Args:
        network, mapping, chip: what was mapped.
        copies: by layer name.
        copy_crossbars: crossbars of one copy, by layer name; a layer that is not named keeps those that it has.

    Raises:
        UserError: a number of copies is missing or below 1, a copy does not fit its crossbars, or the chip has too few
            tiles.
    """
    layers = {}
    for name, layer in mapping.layers.items():
        if copies.get(name, 0) < 1:
            raise UserError(f"layer {name}: it needs at least 1 copy, not {copies.get(name, 0)}")
        wanted = (copy_crossbars or {}).get(name, layer.crossbars)
        one = layer if wanted == layer.crossbars else map_layer(layer.plan, chip, wanted, mapping.mode)
        layers[name] = replace(one, copies=copies[name])
    placed = _place(network, layers, chip, mapping.mode)
    if lack := placed.shortage(network, chip):
        raise UserError(lack)
    return placed


def _place(network: Network, layers: Mapping[str, LayerMapping], chip: Chip, mode: Mode) -> NetworkMapping:
    """Tiles, and what flows between them."""
    first_tile, tiles = {}, 0
    for name, mapping in layers.items():
        first_tile[name] = tiles
        tiles += mapping.total_tiles

    home: dict[str, str | None] = {}  # the layer in whose first tile a node's output lies; None: still off the chip
    elements: dict[str, int] = {}
    feeds: dict[str, list[Feed]] = {name: [] for name in layers}
    done: dict[str, list[DigitalOp]] = {name: [] for name in layers}
    for node in network:
        digital = isinstance(node, DigitalOp)
        if isinstance(node, DigitalOp):
            # of the layers where the sources lie, the one that comes last in the network
            places = [place for source in node.sources if (place := home[source]) is not None]
            place = max(places, key=list(layers).index) if places else None
        else:
            place = node.layer if isinstance(node, Call) else node.name
        home[node.name] = place
        elements[node.name] = (
            network.first_positions(node) * node.filters if isinstance(node, Layer) else node.output_elements
        )
        if isinstance(node, DigitalOp):
            done[place or network.layers[0].name].append(node)
        if place is None:
            continue
        for source in node.sources:
            origin = home[source]
            if not (digital and origin == place):  # an operation on what already lies in its tile moves nothing
                tile = None if origin is None else first_tile[origin]
                feeds[place].append(Feed(tile, elements[source], digital))
    return NetworkMapping(
        mode=mode,
        layers=layers,
        first_tile=first_tile,
        feeds={name: tuple(found) for name, found in feeds.items()},
        digital_ops={name: tuple(found) for name, found in done.items()},
    )


def _check_same(network: Network, plan: NetworkPlan) -> None:
    names = [layer.name for layer in network.layers]
    if set(names) != set(plan.layers):
        odd = sorted(set(names) ^ set(plan.layers))[0]
        raise UserError(f"network {network.name} and its plan ({plan.method}) do not both have layer {odd}")
    for layer in network.layers:
        _check_layer(layer, plan)


def _check_layer(layer: Layer, plan: NetworkPlan) -> None:
    got = plan.layers[layer.name]
    if (got.filters, got.inputs) != (layer.filters, layer.rows):
        raise UserError(
            f"layer {layer.name}: a plan of {got.filters} filters x {got.inputs} rows does not fit its weight of "
            f"{layer.filters} x {layer.rows}"
        )
