"""Networks that timm and torchvision themselves make, with a checkpoint: ``make test-libraries``. Elsewhere they are
absent, and test_own_libraries.py has stand-ins.

Their wheels are built for CUDA. Beside a torch for CPUs torchvision's own operators cannot be loaded, of which
classifiers need none: here they have names only, so that the packages can be imported.
"""

import importlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from prap_pim.runs.config import RunConfig
from prap_pim.training.data import load
from tests.runs.test_own_libraries import PICTURES, pictures, run

pytestmark = pytest.mark.skipif(
    find_spec("timm") is None or find_spec("torchvision") is None, reason="timm and torchvision are not installed"
)


@pytest.fixture(scope="module")
def libraries() -> Any:
    """timm and torchvision.models."""
    operators: Any = torch.library.Library("torchvision", "FRAGMENT")
    for _ in range(40):
        try:
            yield importlib.import_module("timm"), importlib.import_module("torchvision.models")
            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            operators.define(f"{missing[1]}(Tensor x) -> Tensor")
    pytest.fail("torchvision cannot be imported")


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_timm(name: str, libraries: Any, tmp_path: Path) -> None:
    compared("timm", name, libraries[0].create_model, tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_torchvision(name: str, libraries: Any, tmp_path: Path) -> None:
    compared("torchvision", name, libraries[1].get_model, tmp_path)


def compared(library: str, name: str, make: Any, folder: Path) -> None:
    """A run of a network with trained-looking weights tells as many labels as the library's own module."""
    torch.manual_seed(0)
    network = make(name, num_classes=4).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    save_file(network.state_dict(), folder / "weights.safetensors")
    data = {**PICTURES, "folder": str(pictures(folder / "pictures")), "size": 64, "resize": 64}
    model = {library: name, "arguments": {"num_classes": 4}}
    results = run({"data": data, "model": model, "checkpoint": str(folder / "weights.safetensors")}, folder)
    config = RunConfig.checked(yaml.safe_load((folder / "own.yaml").read_text()), "own")
    images, labels = load(config.data, 0).test.take(torch.arange(8))
    with torch.no_grad():
        right = network(images).argmax(1) == labels
    assert results.float_accuracy == float(right.float().mean())
    assert results.weights == "from weights.safetensors"
    on_crossbars = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())
    assert len(results.methods[0].layers) == on_crossbars
