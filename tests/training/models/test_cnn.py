"""The plain network: its size by hand, its names, maps and weights that the seed alone decides."""

import torch

from prap_pim.frontend import capture
from prap_pim.training.models import CNNConfig, build, weight_shapes


def test_parameters_by_hand() -> None:
    model = build(CNNConfig(width=8), 1, 10, 0)
    weights = 9 * (1 * 8 + 8 * 8 + 8 * 16 + 16 * 16 + 16 * 32 + 32 * 32)
    norms = 2 * (8 + 8 + 16 + 16 + 32 + 32)
    assert sum(p.numel() for p in model.parameters()) == weights + norms + (32 * 10 + 10)


def test_names_and_maps() -> None:
    layers = capture(build(CNNConfig(width=4), 1, 7, 0), torch.zeros(1, 1, 32, 32), "cnn").network.layers
    assert [(layer.name, layer.output_shape) for layer in layers] == [
        ("conv1", (4, 32, 32)),
        ("conv2", (4, 32, 32)),
        ("conv3", (8, 16, 16)),
        ("conv4", (8, 16, 16)),
        ("conv5", (16, 8, 8)),
        ("conv6", (16, 8, 8)),
        ("classifier", (7,)),
    ]
    assert list(weight_shapes(CNNConfig(width=4))) == [layer.name for layer in layers]


def test_it_is_the_plain_chain_of_its_layers() -> None:
    model = build(CNNConfig(width=2), 1, 3, 0).eval()
    x = y = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    for i, stride in enumerate((1, 1, 2, 1, 2, 1), start=1):
        conv = model.get_submodule(f"conv{i}")
        y = torch.nn.functional.conv2d(y, conv.weight, stride=stride, padding=1) / (1 + 1e-5) ** 0.5  # a fresh norm
        y = y.clamp(min=0)
    expected = y.mean(dim=(2, 3)) @ model.classifier.weight.T + model.classifier.bias
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (build(CNNConfig(width=2), 1, 10, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
