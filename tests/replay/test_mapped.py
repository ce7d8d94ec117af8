"""Published networks from real mappings, from the command line."""

import json
from math import ceil, floor

import pytest

from prap_pim.__main__ import main
from prap_pim.methods.published import published


def test_structured_pruning_saves_the_ous_of_its_channels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "prap-2023", "--network", "resnet18", "--method", "structured", "--mapped", "--json"]) == 0
    gain = json.loads(capsys.readouterr().out)["resnet18"]["structured"]
    dense = pruned = 0
    for layer in published("prap-2023")["resnet18"].layers:
        positions = (layer.input_size // layer.stride) ** 2
        kept = floor(layer.inputs * layer.keep["structured"])
        dense += ceil(layer.inputs * layer.kernel**2 / 8) * layer.filters * positions  # OUs: 8 rows of one filter
        pruned += ceil(kept * layer.kernel**2 / 8) * layer.filters * positions
    assert gain["energy_gain"] == pytest.approx(dense / pruned, rel=0.02)  # buffers and links are the rest
    assert 1 < gain["speedup"] <= gain["energy_gain"]  # crossbars of a layer are never perfectly even


def test_unknown_names_are_noticed_before_anything_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "prap-2023", "--network", "resnet19", "--mapped"]) == 2
    assert capsys.readouterr().err == "prap-pim: no network 'resnet19' in prap-2023 (did you mean 'resnet18'?)\n"
