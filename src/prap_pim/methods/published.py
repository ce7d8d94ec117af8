"""Published settings: what a paper's authors chose for each layer, and what came out."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json
from prap_pim.common.settings import Settings, nearest
from prap_pim.results.run import Gain

_FOLDER = Path(__file__).parent


class PublishedLayer(Settings):
    """One layer's shape, settings by method, and observed compute ratios.

    Attributes:
        inputs, filters, kernel, stride, input_size: shape; ``input_size`` is the width of the square input map.
        group_channels: n, input channels that share one shape.
        kept_positions: p of a kernel (n * p = 8), None for 1x1 and linear layers (8 of ``group_channels`` inputs kept).
        keep: setting by method: structured = kept channels, orc = kept weights per filter, identical = theta,
            similar = K/O (also used by prap).
        compute_ratio: computed OU columns / all OU columns after training, of reuse alone.
    """

    name: str
    type: Literal["conv", "linear"]
    inputs: int = Field(alias="in")
    filters: int = Field(alias="out")
    kernel: int = 1
    stride: int = 1
    input_size: int = 1
    shortcut: bool = False
    group_channels: int
    kept_positions: int | None
    keep: dict[str, float]
    compute_ratio: dict[str, float]


class PublishedNetwork(Settings):
    """A network's layers in order."""

    dataset: str
    input: tuple[int, int, int]
    layers: tuple[PublishedLayer, ...]


class Claim(Settings):
    """What a paper says that its method gains over the best before it.

    Attributes:
        method: the paper's.
        over: the baseline that we take for that best one.
        speedup, energy_gain: of the method over it.
        source: where the paper says so, and of what.
    """

    method: str
    over: str
    speedup: float
    energy_gain: float
    source: str


@cache
def published(preset: str) -> dict[str, PublishedNetwork]:
    """The networks of a preset, by name.

    Raises:
        UserError: there is no such preset.
    """
    networks = _preset(preset)["networks"]
    return {name: PublishedNetwork.checked(value, f"{preset}: {name}") for name, value in networks.items()}


@cache
def expected_gains(preset: str) -> dict[str, dict[str, Gain]]:
    """The gains that the authors' own model gives, by network and method, where they are known.

    Raises:
        UserError: there is no such preset.
    """
    networks = _preset(preset).get("expected_gain_over_dense", {})
    return {
        name: {method: Gain.checked(gain, f"{preset}: {name}: {method}") for method, gain in methods.items()}
        for name, methods in networks.items()
        if name != "note"
    }


@cache
def claim(preset: str) -> Claim:
    """
    Raises:
        UserError: there is no such preset.
    """
    return Claim.checked(_preset(preset)["claim"], f"{preset}: claim")


def _preset(preset: str) -> Any:
    names = sorted(path.stem for path in _FOLDER.glob("*.json"))
    if preset not in names:
        raise UserError(f"no preset {preset!r} ({nearest(preset, names)})")
    return read_json(_FOLDER / f"{preset}.json")
