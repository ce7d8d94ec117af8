"""What counts: every output, each by the measure that fits it, whatever their order; and what a use costs."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.frontend import Captured, capture, judged
from prap_pim.methods.calibrate.layer import Setting, expected
from prap_pim.methods.calibrate.network import Calibration
from prap_pim.methods.calibrate.survey import _interpolated
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.request import judges_of
from tests.methods.calibrate.networks import compress
from tests.methods.calibrate.problems import GRAIN, normal_layer, problem_of


class TwoHeads(nn.Module):
    """A detector: boxes and sure classes, in either order."""

    def __init__(self, boxes_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.boxes_first = boxes_first
        self.trunk = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.box = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
        self.cls = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 20))
        with torch.no_grad():
            self.cls[2].weight *= 10

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        both = self.box(h), self.cls(h)
        return both if self.boxes_first else both[::-1]


X = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))


def heads(boxes_first: bool = True) -> Captured:
    return capture(TwoHeads(boxes_first).eval(), X[:2], "heads")


def sensitivities(found: Calibration) -> dict[str, float]:
    return {layer.name: layer.sensitivity for layer in found.layers}


def test_outputs_count_whatever_their_order():
    first, second = (compress(heads(order), X, compute_ratio=0.25) for order in (True, False))
    assert sensitivities(first) == pytest.approx(sensitivities(second), rel=1e-5)
    assert {layer.name: layer.setting for layer in first.layers} == {
        layer.name: layer.setting for layer in second.layers
    }
    assert min(sensitivities(first).values()) > 1e-4  # no head counts for nothing
    assert first.drop == second.drop  # of the classes alone


def test_outputs_count_by_their_weights():
    """A head that only feeds an output without weight does nothing; both together are the mean of both."""
    captured = heads()
    both, boxes, classes = (
        sensitivities(compress(captured, X, compute_ratio=0.25, outputs=outputs))
        for outputs in (None, {"1": 0}, {"1": 5, "0": 0})
    )
    assert boxes["cls.0"] == boxes["cls.2"] == classes["box.0"] == classes["box.2"] == 0
    assert min(boxes["box.0"], classes["cls.0"]) > 0
    for name, value in both.items():
        assert value == pytest.approx((boxes[name] + classes[name]) / 2, rel=1e-5)
    uneven = sensitivities(compress(captured, X, compute_ratio=0.25, outputs={"1": 3}))
    for name, value in uneven.items():
        assert value == pytest.approx((boxes[name] + 3 * classes[name]) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"boxes": 1}, "outputs: there is no output 'boxes'"),
        ({"0": -1}, "outputs: the weight of '0' must be a number from 0 up, not -1"),
        ({"0": float("inf")}, "outputs.0: must be finite, not inf"),
        ({"0": 0, "1": 0}, "outputs: no output of the network counts; give a weight above 0 to one of 0, 1"),
        ({}, "outputs"),
    ],
)
def test_wrong_outputs_are_told_in_one_line(outputs: dict[str, float], message: str):
    with pytest.raises(UserError) as caught:
        prap_pim.compress(TwoHeads(True).eval(), X, compute_ratio=0.5, outputs=outputs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Picture(nn.Module):
    """[N, 3, H, W]: what most of it is, all colours share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.luma, self.chroma = (self._branch(out) for out in (1, 3))

    def _branch(self, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.luma(x) + 0.3 * self.chroma(x)


def test_a_picture_is_judged_by_its_values():
    """By the softmax of its colours, what they share would count for nothing."""
    x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    captured = capture(Picture().eval(), x[:2], "picture")
    with torch.no_grad():
        (output,) = judged(captured.module, [captured.module(x)], ["0"], maps=True)
    assert (output.kind, output.axis) == ("values", 1)
    found = compress(captured, x, compute_ratio=0.5)
    assert found.drop is None
    counts = sensitivities(found)  # luma.2 has one filter, whose patterns the probe cannot take
    assert counts["luma.0"] > 5 * max(counts["chroma.0"], counts["chroma.2"])


def test_flat_logits_are_classes_where_that_is_known():
    model = nn.Linear(8, 5)
    nn.init.constant_(model.weight, 1e-3)
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    captured = capture(model, x, "flat")
    assert [judges_of(captured, (x,), MethodConfig(name="dense"), known)[0].kind for known in (False, True)] == [
        "values",
        "classes",
    ]


@pytest.mark.parametrize("balance", [True, False])
def test_uses_that_cost_more_are_fewer(balance: bool):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False), nn.Linear(32, 50))
    x = torch.randn(48, 8, 32)
    captured = capture(model.eval(), x[:2], "transformer")
    uses = []
    for weight in (0.0, 1.0, 1000.0):
        found = compress(captured, x, compute_ratio=0.25, update_weight=weight, balance=balance)
        uses.append(sum(plan.uses for plan in found.plans.values()))
    assert uses[0] > uses[1] > uses[2] > 0
    assert uses[2] < 0.98 * uses[0]


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_between_numbers_of_donors_errors_are_near_those_that_come(uses: int):
    """From the errors of all filters, half and a quarter."""
    layer = normal_layer(256, 16, (1, 1))
    problem = problem_of(layer, 0)

    def error(donors: int) -> float:
        return float(expected(layer, problem, Setting(donors, uses=uses), (5,), GRAIN, 2)[-1, 0])

    rungs = [256, 128, 64]
    guessed = dict(_interpolated(rungs, np.array([error(rung) for rung in rungs]), 8))
    between = [donors for donors in guessed if donors not in rungs]
    assert len(between) == 6
    for donors in between:
        assert guessed[donors] == pytest.approx(error(donors), rel=0.25), donors
