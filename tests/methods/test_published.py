import pytest

from prap_pim.common.errors import UserError
from prap_pim.methods.published import published


def test_vgg16_by_hand():
    """Thirteen convolutions and three linear layers; 33.6 M weights with two 4096-wide linear layers at 32x32."""
    layers = published("prap-2023")["vgg16"].layers
    weights = sum(layer.inputs * layer.filters * layer.kernel**2 for layer in layers)
    assert [layer.type for layer in layers] == ["conv"] * 13 + ["linear"] * 3
    assert weights == 14_710_464 + 512 * 4096 + 4096 * 4096 + 4096 * 10


def test_every_layer_keeps_eight_weights_a_pattern():
    for network in published("prap-2023").values():
        for layer in network.layers:
            if layer.kept_positions is not None:
                assert layer.group_channels * layer.kept_positions == 8


def test_unknown_preset():
    with pytest.raises(UserError, match="did you mean 'prap-2023'"):
        published("prap-2032")
