"""Rivals at equal compute: the ratio as the cost model counts it, one share for all layers, what is out of reach."""

import re
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from prap_pim.__main__ import main
from prap_pim.common.errors import UserError
from prap_pim.cost import cost
from prap_pim.frontend import capture
from prap_pim.hardware.chip import load_chip
from prap_pim.ir.network import Layer, Network
from prap_pim.ir.patterns import plan_weights
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods.equal_compute import (
    IDENTICAL,
    ORC,
    STRUCTURED,
    Family,
    OutOfReach,
    Setting,
    at_compute_ratio,
    patterns,
    similar,
)
from prap_pim.methods.prune import NoPruning, OrcPruning, PatternPruning, prune
from prap_pim.methods.reuse import NoReuse, SimilarReuse, reuse
from prap_pim.training.models import CNNConfig, ResNetConfig, build

CHIP = load_chip("prap-2023")
SIMILAR, PRAP = similar(NoPruning()), similar(PatternPruning(group_channels=2, pointwise_group=16))


def _network(config: object = CNNConfig(width=8)) -> Network:
    return capture(build(config, 1, 10, 0).eval(), torch.zeros(1, 1, 16, 16), "test").network


def _measured(network: Network, settings: dict[str, Setting]) -> float:
    """OU steps of the plan, mapped and counted by the cost model, over those of the dense plan."""
    layers, dense = {}, 0
    for layer in network.layers:
        pruning, reusing = settings.get(layer.name, (NoPruning(), NoReuse()))
        patterns = prune(pruning, layer, CHIP.grain)
        chosen = reuse(reusing, layer, patterns, CHIP.grain)
        layers[layer.name] = plan_weights(layer.name, layer.matrix, patterns, chosen).scaled(
            layer.filter_scale, layer.filter_bias
        )
        dense += CHIP.grain.dense_ous(layer.rows, layer.filters) * layer.positions * CHIP.grain.input_steps
    plan = NetworkPlan("test", layers, dict.fromkeys(layers, 1.0))
    return cost(network, plan, CHIP).ou_steps / dense


@pytest.mark.parametrize(
    ("family", "ratio"),
    [
        (SIMILAR, 0.5),
        (SIMILAR, 0.2),
        (PRAP, 0.25),
        (PRAP, 0.1),
        (IDENTICAL, 0.3),
        (IDENTICAL, 0.6),
        (ORC, 0.25),
        (STRUCTURED, 0.25),
        (STRUCTURED, 0.6),
    ],
)
@pytest.mark.parametrize("config", [CNNConfig(width=8), ResNetConfig(depth=8, width=8)], ids=lambda c: c.name)
def test_the_cost_model_counts_the_ratio(family: Family, ratio: float, config: object) -> None:
    network = _network(config)
    first = network.layers[0].name
    settings = at_compute_ratio(family, network, CHIP, ratio, whole={first, "classifier"})
    assert set(settings) == {layer.name for layer in network.layers} - {first, "classifier"}
    assert ratio * 0.97 <= _measured(network, settings) <= ratio


@pytest.mark.parametrize("ratio", [0.15, 0.25, 0.4, 0.7])
def test_patterns_come_as_near_as_their_few_shapes_allow(ratio: float) -> None:
    """A 3x3 layer may keep 1, 2, 4, 8 or 9 of 9 positions: a step of it is what is left over at most."""
    network = _network(ResNetConfig(depth=8, width=8))
    settings = at_compute_ratio(patterns(8), network, CHIP, ratio)
    found = _measured(network, settings)
    assert 0.8 * ratio <= found <= ratio
    for layer in network.layers:
        pruning = settings[layer.name][0]
        if isinstance(pruning, PatternPruning) and layer.weight.ndim == 4 and layer.weight.shape[2] == 3:
            assert pruning.group_channels in (1, 2, 4, 8)


def test_what_is_out_of_reach_is_said_by_name() -> None:
    with pytest.raises(OutOfReach, match=r"a compute ratio of 0\.01 is out of reach: pattern has 0\.\d+ to 1$"):
        at_compute_ratio(patterns(8), _network(), CHIP, 0.01, name="pattern")


def test_all_layers_have_one_share_but_for_a_level() -> None:
    network = _network(ResNetConfig(depth=8, width=8))
    settings = at_compute_ratio(SIMILAR, network, CHIP, 0.3)
    donors = {}
    for layer in network.layers:
        reusing = settings[layer.name][1]
        assert isinstance(reusing, SimilarReuse)
        donors[layer.name] = floor(layer.filters * reusing.keep)
        assert donors[layer.name] >= 1
    # donors are floor(share * filters), or one more: some share lies in every layer's interval
    least = max((donors[layer.name] - 1) / layer.filters for layer in network.layers)
    assert least < min((donors[layer.name] + 1) / layer.filters for layer in network.layers)


def test_the_last_level_is_all_of_a_layer() -> None:
    network = _network()
    for family in (SIMILAR, ORC, STRUCTURED, patterns(8)):
        assert _measured(network, at_compute_ratio(family, network, CHIP, 1.0)) == 1
    for pruning, _ in at_compute_ratio(ORC, network, CHIP, 1.0).values():
        assert isinstance(pruning, OrcPruning)
        assert pruning.ratio == 1


@pytest.mark.parametrize("filters", [3, 10, 49, 107, 187])
def test_every_level_is_met_however_floats_round(filters: int) -> None:
    weight = np.random.default_rng(0).standard_normal((filters, 2), dtype=np.float32)
    layer = Layer(
        "x", "linear", weight, np.ones(filters, np.float32), np.zeros(filters, np.float32), (2,), (filters,), ()
    )
    for level in range(1, filters + 1):
        reusing = SIMILAR.setting(layer, CHIP.grain, level)[1]
        assert isinstance(reusing, SimilarReuse)
        assert floor(filters * reusing.keep) == level


def test_levels_of_orc_fill_their_ous() -> None:
    network = _network()
    for layer in network.layers:
        pruning, _ = at_compute_ratio(ORC, network, CHIP, 0.4)[layer.name]
        assert isinstance(pruning, OrcPruning)
        kept = np.floor(layer.rows * pruning.ratio)
        assert kept % 8 == 0 or kept == layer.rows


def test_what_is_out_of_reach_is_said() -> None:
    network = _network()
    with pytest.raises(UserError, match=r"0\.01 is out of reach: this method has 0\.\d+ to 1$"):
        at_compute_ratio(SIMILAR, network, CHIP, 0.01)
    with pytest.raises(UserError, match=r"0\.9 is out of reach: .* to 0\.4\d+$"):  # 4 of 9 positions
        at_compute_ratio(PRAP, network, CHIP, 0.9)
    with pytest.raises(UserError, match="out of reach"):  # what is left dense counts
        at_compute_ratio(SIMILAR, network, CHIP, 0.3, whole={"conv2", "conv4"})


def test_a_run_says_what_is_out_of_reach_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all methods at once, with what each can reach; nothing is written."""
    monkeypatch.setattr("prap_pim.runs.pipeline.train_network", None)
    methods = [{"name": "dense"}, *({"name": name, "compute_ratio": 0.01} for name in ("orc", "structured", "prap"))]
    config = {
        "name": "r",
        "data": {"name": "digits", "size": 8, "train": 60, "calibration": 20, "test": 20},
        "model": {"name": "cnn", "width": 4},
        "training": {"epochs": 2, "compress_at": 1, "batch_size": 30},
        "methods": methods,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "r"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert re.findall(r"a compute ratio of 0\.01 is out of reach: (\w+) has 0\.\d+ to [01]", said) == [
        "orc",
        "structured",
        "prap",
    ]
    assert not (tmp_path / "r").exists()
