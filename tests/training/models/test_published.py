"""The networks of the paper: every layer as published, sizes by hand, other image sizes and stems."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from prap_pim.frontend import capture
from prap_pim.ir.network import Layer
from prap_pim.methods.published import published
from prap_pim.training.models import (
    ModelConfig,
    ResNet18Config,
    ResNet50Config,
    VGG16Config,
    WideResNetConfig,
    build,
    weight_shapes,
)

CONFIGS = [VGG16Config(), ResNet18Config(), ResNet50Config(), WideResNetConfig()]


def _shape(layer: Layer) -> tuple[int, ...]:
    filters, inputs, *kernel = layer.weight.shape
    size = layer.input_shape[-1] if kernel else 1
    return inputs, filters, kernel[0] if kernel else 1, layer.stride[0] if kernel else 1, size


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_layer_is_as_published(config: Any) -> None:
    network = capture(build(config, 3, 10, 0), torch.zeros(1, 3, 32, 32), config.name).network
    expected = published("prap-2023")[config.name].layers
    assert [_shape(layer) for layer in network.layers] == [
        (layer.inputs, layer.filters, layer.kernel, layer.stride, layer.input_size) for layer in expected
    ]
    assert [layer.kind for layer in network.layers] == [layer.type for layer in expected]
    assert ["shortcut" in layer.name for layer in network.layers] == [layer.shortcut for layer in expected]
    assert list(weight_shapes(config).items()) == [(layer.name, layer.weight.shape) for layer in network.layers]


BOTTLENECKS = {64: 3, 128: 4, 256: 6, 512: 3}  # ResNet-50: width inside a stage -> blocks


def test_parameters_by_hand() -> None:
    # VGG16's 13 convolutions: 9 * (3*64 + 64*64 + 64*128 + 128*128 + 128*256 + 2*256**2 + 256*512 + 5*512**2)
    vgg = 14_710_464 + 2 * 4224 + (512 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 10 + 10)
    # ResNet-18: 11,173,962 is what is published for CIFAR-10 everywhere; here counted
    small = 27 * 64 + 128
    for width, before in ((64, 64), (128, 64), (256, 128), (512, 256)):
        small += 9 * before * width + 3 * 9 * width**2 + 4 * 2 * width
        small += (before * width + 2 * width) if before != width else 0
    # ResNet-50: a bottleneck has before*w + 9*w*w + w*4w weights and 2 * (w + w + 4w) of norms
    large, before = 27 * 64 + 128, 64
    for width, blocks in BOTTLENECKS.items():
        large += before * 4 * width + 2 * 4 * width  # the stage's one shortcut
        for _ in range(blocks):
            large += before * width + 9 * width**2 + 4 * width**2 + 2 * 6 * width
            before = 4 * width
    # wide ResNet: norms stand before the convolutions, on their inputs, and one at the end
    wide, before = 27 * 16, 16
    for width in (128, 256, 512):
        wide += 9 * before * width + 3 * 9 * width**2 + before * width + 2 * (before + 3 * width)
        before = width
    wide += 2 * 512
    hand = [vgg, small + 5130, large + 20490, wide + 5130]  # classifiers: 512 * 10 + 10, 2048 * 10 + 10
    assert hand == [33_642_442, 11_173_962, 23_520_842, 10_961_370]
    for config, expected in zip(CONFIGS, hand, strict=True):
        assert sum(p.numel() for p in build(config, 3, 10, 0).parameters()) == expected


def test_resnet50_for_imagenet() -> None:
    """The ImageNet network: 25,557,032 parameters, as every library that has it says; 7x7 stem, 224 -> 7 positions."""
    model = build(ResNet50Config(stem="imagenet"), 3, 1000, 0)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    shapes = {}
    for name in ("stem.relu", "stem", "stage1", "stage2", "stage3", "stage4"):
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: shapes.update({name: o.shape[1:]}))
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert shapes == {
        "stem.relu": (64, 112, 112),
        "stem": (64, 56, 56),
        "stage1": (256, 56, 56),
        "stage2": (512, 28, 28),
        "stage3": (1024, 14, 14),
        "stage4": (2048, 7, 7),
    }


NARROW = [VGG16Config(width=2, hidden=8), ResNet18Config(width=2), ResNet50Config(width=2), WideResNetConfig(widen=1)]


@pytest.mark.parametrize("config", NARROW, ids=lambda config: config.name)
@pytest.mark.parametrize("size", [(32, 32), (45, 64)])
def test_narrow_networks_train_on_other_images(config: Any, size: tuple[int, int]) -> None:
    model = build(config, 1, 7, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of dropout, which may silence all of a narrow layer
        model(torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    assert all(bool((parameter.grad != 0).any()) for parameter in model.parameters() if parameter.ndim > 1)
    capture(model, torch.zeros(1, 1, *size), config.name)


def test_dropout_is_in_training_only() -> None:
    model = build(VGG16Config(width=2, hidden=8), 3, 10, 0)
    drops = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [drop.p for drop in drops] == [0.5, 0.5]
    image = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


def test_names_need_no_weights_and_leave_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    names = list(weight_shapes(ResNet50Config(width=4096)))  # 100 billion weights
    assert torch.equal(before, torch.get_rng_state())
    assert (len(names), names[0], names[-1]) == (54, "stem.conv", "classifier")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"name": "wide-resnet", "depth": 14}, "depth"),
        ({"name": "resnet18", "stem": "cifer"}, "stem"),
        ({"name": "vgg16", "dropout": 1}, "dropout"),
        ({"name": "vgg61"}, "vgg61"),
    ],
)
def test_wrong_settings_are_refused(value: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        TypeAdapter(ModelConfig).validate_python(value)
