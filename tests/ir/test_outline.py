"""A plan's file with its network's shapes: what it holds, and files that lie."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import prap_pim
from prap_pim.api.model import Compression
from prap_pim.common.errors import UserError
from prap_pim.ir.network import Network
from prap_pim.ir.outline import Outline
from prap_pim.ir.plan import NetworkPlan


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def saved(path: Path) -> Compression:
    found = prap_pim.compress(model(), torch.randn(8, 2, 6, 6), "similar", keep=0.5)
    found.plan.save(path)
    return found


def test_an_outline_holds_all_but_weights(tmp_path: Path) -> None:
    found = saved(tmp_path / "plan")
    network = NetworkPlan.load(tmp_path / "plan").network()
    assert Outline.of(network) == Outline.of(found.network)
    conv = network.layers[0]
    assert (conv.stride, conv.padding, conv.groups, conv.output_shape) == ((2, 2), (1, 1), 1, (4, 3, 3))
    assert [(node.name, node.sources) for node in network] == [(node.name, node.sources) for node in found.network]
    assert isinstance(network, Network)


LIES: list[tuple[list[Any], Any, str]] = [
    (["nodes", 1, "output_shape"], [4, 30, 30], "its maps"),
    (["nodes", 1, "weight_shape"], [4, 2, 9, 1], "its maps"),
    (["nodes", 1, "weight_shape"], [5, 2, 3, 3], "does not fit its shape"),
    (["nodes", 1, "weight_shape"], [4, 2**40], "weight_shape.1"),
    (["nodes", 1, "stride"], [0, 1], "stride.0"),
    (["nodes", 1, "groups"], 3, "3 groups cannot share out 4 filters"),
    (["nodes", 1, "name"], "other", "layer other has no plan"),
    (["nodes", 2, "sources"], ["later"], "reads later"),
    (["nodes", 2, "input_elements"], -1, "input_elements"),
    (["nodes", 2, "node"], "magic", "unknown node 'magic'"),
    (["nodes", 2, "speed"], 1, "unknown key 'speed'"),
    (["nodes", 1, "more_positions"], 2**45, r"to time its 35,184,372,088,841 positions needs about 1,572,864\.0 GiB"),
    (["nodes"], [], "it has no layer 0"),
    (["nodes"], 7, "nodes"),
]


@pytest.mark.parametrize(("where", "value", "answer"), LIES)
def test_a_file_that_lies_about_its_network_is_answered(
    tmp_path: Path, where: list[Any], value: Any, answer: str
) -> None:
    path = tmp_path / "plan"
    saved(path)
    with safe_open(path, framework="numpy") as file:
        header, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    told = json.loads(header["network"])
    place = told
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    save_file(tensors, path, metadata=header | {"network": json.dumps(told)})
    with pytest.raises(UserError, match=answer):
        prap_pim.estimate(NetworkPlan.load(path))


def test_a_plan_of_more_weights_than_memory_holds_is_refused_before_they_are_made(tmp_path: Path) -> None:
    found = saved(tmp_path / "plan").plan
    last = list(found.layers)[-1]
    wide = {**found.layers, last: replace(found.layers[last], inputs=2**50)}
    with pytest.raises(UserError, match="a layer of the plan needs about"):
        replace(found, layers=wide).network()
