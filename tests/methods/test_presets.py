"""The paper's settings reach the layers that they were published for, and mistakes are one line."""

import re
from typing import Any

import pytest
import torch

from prap_pim.common.errors import UserError
from prap_pim.frontend import capture
from prap_pim.methods.presets import layers_by_name, method_settings, with_presets
from prap_pim.methods.prune import NoPruning, OrcPruning, PatternPruning, StructuredPruning
from prap_pim.methods.published import published
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, SimilarReuse
from prap_pim.runs.config import RunConfig
from prap_pim.training.models import ResNet18Config, ResNet50Config, ResNetConfig, VGG16Config, WideResNetConfig, build

WHOLE = (NoPruning(), NoReuse())
METHODS = ["dense", "structured", "orc", "pattern", "identical", "similar", "structured+identical", "prap"]
# copied by hand from the published list of vgg16: conv2, conv9, fc1 and fc3
VGG16 = {
    "dense": [WHOLE] * 4,
    "structured": [(StructuredPruning(ratio=r), NoReuse()) for r in (0.65, 0.65, 0.25)] + [WHOLE],
    "orc": [(OrcPruning(ratio=r), NoReuse()) for r in (0.2, 0.2, 0.05)] + [WHOLE],
    "pattern": [
        (PatternPruning(group_channels=1), NoReuse()),
        (PatternPruning(group_channels=4), NoReuse()),
        (PatternPruning(pointwise_group=32), NoReuse()),
        WHOLE,
    ],
    "identical": [(NoPruning(), IdenticalReuse(threshold=t)) for t in (0.75, 0.5, 0.75)] + [WHOLE],
    "similar": [(NoPruning(), SimilarReuse(keep=k)) for k in (0.75, 0.125, 0.03125)] + [WHOLE],
    "structured+identical": [
        (StructuredPruning(ratio=0.65), IdenticalReuse(threshold=0.75)),
        (StructuredPruning(ratio=0.65), IdenticalReuse(threshold=0.5)),
        (StructuredPruning(ratio=0.25), IdenticalReuse(threshold=0.75)),
        WHOLE,
    ],
    "prap": [
        (PatternPruning(group_channels=1), SimilarReuse(keep=0.75)),
        (PatternPruning(group_channels=4), SimilarReuse(keep=0.125)),
        (PatternPruning(pointwise_group=32), SimilarReuse(keep=0.03125)),
        WHOLE,
    ],
}


@pytest.mark.parametrize("method", METHODS)
def test_vgg16_by_hand(method: str) -> None:
    settings = method_settings("prap-2023", method, VGG16Config())
    chosen = [settings[name] for name in ("stage1.conv2", "stage4.conv2", "classifier.fc1", "classifier.fc3")]
    assert chosen == VGG16[method]
    first = settings["stage1.conv1"]  # its only published setting below "all" is that 8 of 9 positions are kept
    assert first == ((PatternPruning(group_channels=1), NoReuse()) if method in ("pattern", "prap") else WHOLE)


@pytest.mark.parametrize("config", [VGG16Config(), ResNet18Config(), ResNet50Config(), WideResNetConfig()])
def test_each_layer_is_the_published_one(config: Any) -> None:
    layers = capture(build(config, 3, 10, 0), torch.zeros(1, 3, 32, 32), config.name).network.layers
    named = layers_by_name("prap-2023", config)
    assert list(named) == [layer.name for layer in layers]
    for layer in layers:
        expected = named[layer.name]
        assert layer.weight.shape[:2] == (expected.filters, expected.inputs)
        assert layer.input_shape[-1] == (expected.input_size if layer.kind == "conv" else expected.inputs)
        assert ("shortcut" in layer.name) == expected.shortcut


def test_a_layer_that_only_one_method_leaves_whole() -> None:
    """The wide ResNet's conv2: structured keeps all of its 16 channels, the others do not."""
    assert method_settings("prap-2023", "structured", WideResNetConfig())["stage1.block1.conv1"] == WHOLE
    both = method_settings("prap-2023", "structured+identical", WideResNetConfig())["stage1.block1.conv1"]
    assert both == (NoPruning(), IdenticalReuse(threshold=0.7))


def _config(methods: Any, **others: Any) -> RunConfig:
    values = {"name": "x", "model": {"name": "resnet18", "width": 2}, "methods": methods}
    return RunConfig.checked(values | others, "file.yaml")


def test_a_presets_name_is_all_of_its_methods() -> None:
    config = _config("prap-2023")
    assert [method.name for method in config.methods] == METHODS
    network = capture(build(config.model, 1, 10, 0), torch.zeros(1, 1, 32, 32), "resnet18").network
    for method in config.methods:
        assert method.layer_settings(network) == method_settings("prap-2023", method.name, config.model)
        assert method.finetune
        assert "prap-2023" in method.description
    assert RunConfig.checked(config.resolved(), "resolved") == config  # nothing of the preset is left to look up


def test_items_of_a_list() -> None:
    own = {"name": "own", "reuse": {"kind": "similar", "keep": 0.5}}
    once = {
        "name": "one-shot",
        "preset": "prap-2023",
        "method": "prap",
        "description": "mine",
        "finetune": False,
        "exceptions": [{"layers": "stage4.*"}],
    }
    config = _config([own, {"name": "prap", "preset": "prap-2023"}, once])
    assert [method.name for method in config.methods] == ["own", "prap", "one-shot"]
    _, prap, mine = config.methods
    assert (mine.description, mine.finetune) == ("mine", False)
    network = capture(build(config.model, 3, 10, 0), torch.zeros(1, 3, 32, 32), "resnet18").network
    published_ones, with_exception = prap.layer_settings(network), mine.layer_settings(network)
    for name, setting in published_ones.items():
        assert with_exception[name] == (WHOLE if name.startswith("stage4.") else setting)


@pytest.mark.parametrize(
    ("method", "hint"),
    [
        ({"name": "calibratd"}, "(did you mean 'calibrated'?)"),
        ({"name": "similar", "description": "mine"}, "(give its prune and reuse, or a compute_ratio or preset)"),
        ({"name": "prapp", "tune": {"steps": 5}}, "(did you mean 'prap'?)"),
        ({"name": "ours", "exceptions": [{"layers": "fc"}], "finetune": False}, "(give its prune and reuse, or a comp"),
    ],
)
def test_a_method_without_settings_is_no_dense_one_by_accident(method: dict[str, Any], hint: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{method['name']!r} has no settings and would be dense {hint}")):
        _config([method])


def test_dense_may_be_said_in_other_ways() -> None:
    ours = {"name": "ours", "prune": {"kind": "none"}}
    partly = {"name": "partly", "exceptions": [{"layers": "classifier", "prune": {"kind": "orc", "ratio": 0.5}}]}
    config = _config([{"name": "dense"}, {"name": "dense-2", "finetune": False}, ours, partly])
    assert [method.prune.kind for method in config.methods] == ["none"] * 4


@pytest.mark.parametrize(
    ("methods", "others", "complaint"),
    [
        ("prap-2032", {}, "file.yaml: methods: no preset 'prap-2032' (did you mean 'prap-2023'?)"),
        (
            "prap-2023",
            {"model": {"name": "resnet"}},
            "file.yaml: methods: preset prap-2023 has no settings for model resnet "
            "(it has: vgg16, resnet18, resnet50, wide-resnet)",
        ),
        (
            "prap-2023",
            {"model": {"name": "wide-resnet", "depth": 22}},
            "file.yaml: methods: preset prap-2023 is for a wide-resnet of 17 layers, not 23",
        ),
        (
            "prap-2023",
            {"model": {"name": "resnet50", "stem": "imagenet"}},
            "file.yaml: methods: preset prap-2023 is for a resnet50 with a 3x3 kernel in stem.conv, not 7x7",
        ),
        (
            [{"name": "prop", "preset": "prap-2023"}],
            {},
            "file.yaml: methods: no method 'prop' in preset prap-2023 (did you mean 'prap'?)",
        ),
        (
            [{"name": "prap", "preset": "prap-2023", "keep": 0.5}],
            {},
            "file.yaml: methods: prap: unknown key 'keep' "
            "(allowed: description, exceptions, finetune, method, name, preset)",
        ),
        ([{"name": "prap", "preset": 3}], {}, "file.yaml: methods: prap: preset: must be text, not 3"),
        (
            [{"name": "prap", "preset": "prap-2023", "exceptions": [{"layer": "x"}]}],
            {},
            "file.yaml: methods.prap.exceptions.0: unknown key 'layer' (did you mean 'layers'?)",
        ),
        (
            "prap-2023",
            {"model": {"name": "resnet81"}},
            "file.yaml: model: unknown name 'resnet81' (did you mean 'resnet18'?)",
        ),
    ],
)
def test_mistakes(methods: Any, others: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        _config(methods, **others)
    assert str(caught.value) == complaint


def test_what_names_no_preset_is_left_alone() -> None:
    for methods in ([{"name": "dense"}], 3, None, [], {"prap": 1}):
        assert with_presets(methods, ResNetConfig()) is methods or with_presets(methods, ResNetConfig()) == methods


def test_every_published_network_has_a_model() -> None:
    models = [VGG16Config(), ResNet18Config(), ResNet50Config(), WideResNetConfig()]
    assert {model.name for model in models} == set(published("prap-2023"))
