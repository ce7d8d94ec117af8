"""The residual network: its size by the published figure, its names, and weights that the seed alone decides."""

import pytest
import torch
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.training.models import ResNetConfig, build


def test_depth_counts_the_layers_with_weights() -> None:
    for depth in (8, 14, 20, 32):
        model = build(ResNetConfig(depth=depth, width=2), 3, 10, 0)
        on_path = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
        assert len(on_path) == depth


def test_parameters_of_resnet20_match_the_paper() -> None:
    # He et al. 2016, table 6: ResNet-20 has 0.27 M parameters (3 channels, identity shortcuts).
    model = build(ResNetConfig(depth=20, width=16), 3, 10, 0)
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # our two 1x1 convolutions with their norms
    total = sum(p.numel() for p in model.parameters())
    assert total - shortcuts == 269_722  # counted by hand: see the line below
    assert total - shortcuts == (
        (27 * 16 + 32)  # stem and its norm
        + 6 * (9 * 16 * 16 + 32)
        + (9 * 16 * 32 + 64)
        + 5 * (9 * 32 * 32 + 64)
        + (9 * 32 * 64 + 128)
        + 5 * (9 * 64 * 64 + 128)
        + (64 * 10 + 10)
    )


def test_names_and_shapes() -> None:
    model = build(ResNetConfig(depth=8, width=4), 1, 7, 0)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert names == [
        "stem.conv",
        "stage1.block1.conv1",
        "stage1.block1.conv2",
        "stage2.block1.conv1",
        "stage2.block1.conv2",
        "stage2.block1.shortcut.conv",
        "stage3.block1.conv1",
        "stage3.block1.conv2",
        "stage3.block1.shortcut.conv",
        "classifier",
    ]
    shapes = {}
    for name in ("stem", "stage1", "stage2", "stage3", "pool"):
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: shapes.update({name: o.shape[1:]}))
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert shapes == {
        "stem": (4, 32, 32),
        "stage1": (4, 32, 32),
        "stage2": (8, 16, 16),
        "stage3": (16, 8, 8),
        "pool": (16, 1, 1),
    }


def test_it_can_be_traced() -> None:
    torch.fx.symbolic_trace(build(ResNetConfig(depth=8, width=2), 1, 3, 0))


def test_the_seed_decides_the_weights_and_no_global_state_changes() -> None:
    before = torch.get_rng_state()
    first, again, other = (build(ResNetConfig(depth=8, width=4), 1, 10, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("depth", [2, 9, 18, 21])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match="depth"):
        ResNetConfig(depth=depth)


def test_an_unknown_config_has_no_builder() -> None:
    with pytest.raises(TypeError, match="no network for str"):
        build("resnet", 1, 10, 0)
