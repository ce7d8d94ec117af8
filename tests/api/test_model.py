"""compress and estimate: the library as a user has it."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.ir.plan import NetworkPlan

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("dense", {}),
    ("calibrated", {"compute_ratio": 0.5}),
    ("calibrated", {"max_drop": 0.2}),
    ("similar", {"compute_ratio": 0.5}),
    ("similar", {"keep": 0.5}),
    ("identical", {"threshold": 0.5}),
    ("orc", {"compute_ratio": 0.7}),
    ("structured", {"ratio": 0.5}),
    ("structured", {"compute_ratio": 0.9}),
    ("pattern", {"compute_ratio": 0.7}),
    ("pattern", {"group_channels": 2, "pointwise_group": 16}),
    ("prap", {"keep": 0.5, "group_channels": 2}),
]


class Net(nn.Module):
    """Two inputs; grouped and depthwise convolutions, a transposed one, attention, a layer used twice, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.twice = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)

    def forward(self, tokens: Tensor, images: Tensor) -> dict[str, Tensor]:
        x = self.table(tokens)
        x = x + self.attention(x, x, x)[0]
        x = self.twice(torch.relu(self.twice(x)))
        maps = self.up(self.depthwise(torch.relu(self.norm(self.grouped(images)))))
        return {"logits": self.head(x), "maps": maps}


def made(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def inputs(count: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(16, (count, 5), generator=generator), torch.randn(count, 4, 6, 6, generator=generator)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_every_method_gives_a_model_that_computes_its_plan(method: str, options: dict[str, Any]) -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    found = prap_pim.compress(model, [inputs()], method, **options)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    # weights, by another way than the package puts them into the model
    for name in ("twice", "grouped"):
        plan = found.plan.layers[name]
        expected = torch.from_numpy(plan.real_weights()).float().reshape(model.get_submodule(name).weight.shape)
        if name == "grouped":  # its plan holds batch norm's scale
            norm = found.model.norm
            expected = expected / (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
        if name in found.changed:
            torch.testing.assert_close(found.model.get_submodule(name).weight, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.model.table.weight, before["table.weight"])  # a lookup is no product
    given = inputs(7, seed=2)
    result = found.model(*given)
    assert set(result) == {"logits", "maps"}
    assert result["maps"].shape == (7, 6, 8, 8)
    ratio = found.compute_ratio
    assert ratio == 1 if method == "dense" else 0 < ratio <= options.get("compute_ratio", 1) + 1e-9


@pytest.mark.parametrize("method", ["dense", "similar"])
def test_nothing_left_out_is_the_model_itself_up_to_int8(method: str) -> None:
    model = made().eval()
    found = prap_pim.compress(model, [inputs()], method, **({} if method == "dense" else {"keep": 1.0}))
    if method == "dense":
        expected = model(*inputs())
        for key, value in found.model(*inputs()).items():
            assert torch.equal(value, expected[key])
    assert found.compute_ratio == 1
    assert found.sqnr_db() > 20 if method == "dense" else found.sqnr_db() > 5
    assert found.sqnr_db(inputs(5, seed=3)) > 5


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def plain() -> tuple[Plain, Tensor]:
    torch.manual_seed(0)
    return Plain(), torch.randn(64, 20)


def test_a_tensor_an_iterable_and_a_list_of_batches_are_the_same() -> None:
    model, x = plain()

    def batches() -> Iterator[Tensor]:
        yield from torch.split(x, 64)

    plans = [prap_pim.compress(model, given, compute_ratio=0.5).plan.digest() for given in (x, batches(), [x], [(x,)])]
    assert len(set(plans)) == 1
    assert prap_pim.compress(model, x, compute_ratio=0.5, seed=0).plan.digest() == plans[0]


def read(plan: NetworkPlan, name: str, value: Tensor) -> Tensor:
    """What a layer makes of its inputs: int8 integers, of which ``zero`` stands for 0."""
    step, zero = plan.input_step[name], plan.input_zero[name]
    return (torch.clamp(torch.round(value / step) + zero, -128, 127) - zero) * step


def compressed_with(x: Tensor) -> Tensor:
    """Without the inputs that are held back: a tenth, at least 8, the middle ones of equal shares."""
    share = len(x) // max(8, len(x) // 10)
    return x[torch.arange(len(x)) % share != share // 2]


def test_the_bit_true_network_computes_the_plan_by_hand() -> None:
    model, x = plain()
    found = prap_pim.compress(model, x, compute_ratio=0.5)
    assert found.plan.input_zero["b"] < 0  # what a relu gives has no use for negative numbers

    def layer(name: str, value: Tensor) -> Tensor:
        plan = found.plan.layers[name]
        weights, bias = torch.from_numpy(plan.real_weights()), torch.from_numpy(plan.bias.astype(float))
        return read(found.plan, name, value.double()) @ weights.T + bias

    expected = layer("b", torch.relu(layer("a", x)).float())
    torch.testing.assert_close(found.bit_true(x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_bit_true_network_refuses_what_int8_cannot_hold(value: float) -> None:
    model, x = plain()
    found = prap_pim.compress(model, x, "similar", keep=0.5)
    x[3].view(-1)[0] = value
    with pytest.raises(UserError, match=f"layer {found.network.layers[0].name}: its input is NaN or infinite"):
        found.bit_true(x)


def test_a_budget_that_is_not_used_is_told() -> None:
    """Two filters: one donor for both in every row group, or two; nothing between half and all."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 2)), torch.randn(32, 16)
    told = "0.500 of the dense OU steps are used, 0.700 were allowed"
    assert told in prap_pim.compress(model, x, compute_ratio=0.7, balance=False).summary()
    assert "were allowed" not in prap_pim.compress(model, x, compute_ratio=0.5, balance=False).summary()


def test_layers_to_skip_keep_their_weights_and_count() -> None:
    model, x = plain()
    found = prap_pim.compress(model, x, "similar", keep=0.25, skip=["b"])
    assert found.changed == ("a",)
    assert torch.equal(found.model.b.weight, model.b.weight)
    # 8-row groups x filters: a 3 x 24 dense, 3 x 6 now; b 3 x 10
    assert found.compute_ratio == (18 + 30) / (72 + 30)
    assert "whole" in found.summary()


def test_all_layers_of_a_module_can_be_skipped() -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)))
    model.add_module("encoder2", nn.Linear(16, 4))
    found = prap_pim.compress(model, torch.randn(32, 16), "similar", keep=0.25, skip="encoder")
    assert found.changed == ("encoder2",)


def test_what_cannot_be_mapped_is_skipped_and_said() -> None:
    class Diagonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("ntd,dd->ntd", x, self.weight)

    model, x = nn.Sequential(Diagonal(), nn.Linear(8, 8)), torch.randn(9, 4, 8)
    with pytest.raises(UserError, match=r"0: einsum with a weight \[8, 8\] cannot be mapped: it reads a diagonal"):
        prap_pim.compress(model, x, compute_ratio=0.5)
    found = prap_pim.compress(model, x, compute_ratio=0.5, skip=["0"])
    assert found.changed == ("1",)
    first, *lines = found.summary().splitlines()
    macs = 4 * 8, 4 * 8 * 8
    share = f"50.0% of weights, {macs[1] / sum(macs):.1%} of MACs"
    assert first.endswith(f"1 layers on crossbars ({share})")
    (said,) = (line for line in lines if line.startswith("not mapped: 0: einsum"))
    assert said.endswith(f"; 50.0% of weights, {macs[0] / sum(macs):.1%} of MACs")


def test_costs_follow_the_plan() -> None:
    model, x = plain()
    dense = prap_pim.estimate(model, x)
    found = prap_pim.compress(model, x, "similar", keep=0.25)
    costs = prap_pim.estimate(found)
    assert dense.ou_steps == (3 * 24 + 3 * 10) * 8
    assert costs.ou_steps == (3 * 6 + 3 * 2) * 8  # floor(10 / 4) donors
    assert costs.energy_j < dense.energy_j
    assert prap_pim.estimate(found, chip="prap-2023").chip.name == "prap-2023"


def test_a_plan_of_more_ou_steps_than_dense_warns() -> None:
    """Patterns of few filters each leave most columns of wide OUs empty."""
    chip = prap_pim.load_chip("isaac-32nm")
    wide = chip.model_copy(update={"grain": replace(chip.grain, ou_rows=16, ou_columns=128), "adc_bits": 8})
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    x = torch.randn(8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"^prap takes \d.* times the OU steps of dense: 2 of 2 layers") as caught:
        found = prap_pim.compress(model, x, "prap", keep=1.0, chip=wide)
    (line,) = {str(each.message) for each in caught}
    assert f"warning: {line}" in found.summary()
    assert prap_pim.estimate(found, chip=wide).warnings == (line,)
    fewer = prap_pim.compress(model, x, "prap", keep=1.0, chip=wide, shapes=1)  # all filters share the OUs: no warning
    assert fewer.compute_ratio < 1
    assert prap_pim.estimate(fewer, chip=wide).warnings == ()
    assert "warning: prap" not in fewer.summary()


def test_a_plan_is_saved_and_read(tmp_path: Any) -> None:
    found = prap_pim.compress(made(), [inputs()], compute_ratio=0.5)
    found.plan.save(tmp_path / "plan.safetensors")
    assert NetworkPlan.load(tmp_path / "plan.safetensors").digest() == found.plan.digest()


def _nan(x: Tensor) -> Tensor:
    return torch.full_like(x, float("nan"))


@pytest.mark.parametrize(
    ("calibration", "arguments", "message"),
    [
        (lambda x: x, {"method": "calibratd"}, "no method 'calibratd' .*'calibrated'"),
        (lambda x: x, {}, "give either compute_ratio"),
        (lambda x: x, {"compute_ratio": 0.5, "shape": (9,)}, "unknown key 'shape'"),
        (lambda x: x, {"compute_ratio": 0.001}, "a compute ratio of 0.001 is not possible"),
        (lambda x: x, {"compute_ratio": 2}, "compute_ratio"),
        (lambda x: x, {"method": "orc", "compute_ratio": 0.001}, "out of reach"),
        (lambda x: x, {"method": "structured", "compute_ratio": 0.5, "ratio": 1}, "give either ratio or compute_ratio"),
        (
            lambda x: x,
            {"method": "pattern", "compute_ratio": 0.5, "group_channels": 2},
            "give either group_channels and",
        ),
        (lambda x: x, {"method": "dense", "compute_ratio": 0.5}, r"is always 1: leave .*\(calibrated, lowbit,"),
        (lambda x: x, {"method": "dense", "keep": 1}, "dense has no setting 'keep'"),
        (lambda x: x, {"method": "similar"}, "keep"),
        (lambda x: x, {"compute_ratio": 0.5, "chip": "isac-32nm"}, "isaac-32nm"),
        (lambda x: x, {"compute_ratio": 0.5, "skip": ["c"]}, "no layer is called 'c'"),
        (lambda x: x[:0], {"compute_ratio": 0.5}, "no inputs to calibrate with"),
        (lambda x: [], {"compute_ratio": 0.5}, "no inputs to calibrate with"),
        (lambda x: ["x"], {"compute_ratio": 0.5}, "needs inputs with a tensor"),
        (lambda x: {"y": x}, {"compute_ratio": 0.5}, "does not run on an input"),
        (lambda x: x[:, :3], {"compute_ratio": 0.5}, "does not run on an input"),
        (_nan, {"compute_ratio": 0.5}, "calibration batch 0 holds NaN"),
        (lambda x: None, {"compute_ratio": 0.5}, "must be a tensor or batches, not NoneType"),
        (lambda x: x, {"method": None}, "method must be a name, or an object such as .*, not None"),
        (lambda x: x, {"compute_ratio": 0.5, "name": 5}, "name must be text, not 5"),
        (lambda x: x, {"compute_ratio": 0.5, "chip": None}, "a chip is a preset's name or a TOML file, not None"),
        (lambda x: x, {"compute_ratio": 0.5, "skip": 7}, "skip must hold names of layers; it is 7"),
        (lambda x: x, {"compute_ratio": 0.5, "skip": [0]}, "skip must hold names"),
        (lambda x: x, {"compute_ratio": 0.5, "skip": "c"}, "no layer is called 'c'"),
    ],
)
def test_mistakes_are_one_line(calibration: Any, arguments: dict[str, Any], message: str) -> None:
    model, x = plain()
    with pytest.raises(UserError, match=message) as caught:
        prap_pim.compress(model, calibration(x), **arguments)
    assert "\n" not in str(caught.value)


def test_a_chip_with_other_ous_is_refused(tmp_path: Any) -> None:
    model, x = plain()
    found = prap_pim.compress(model, x, "similar", keep=0.5)
    with pytest.raises(UserError, match="needs an example"):
        prap_pim.estimate(model)
    other = copy.copy(found)
    object.__setattr__(other, "chip", found.chip.model_copy(update={"grain": type(found.chip.grain)(ou_rows=16)}))
    with pytest.raises(UserError, match="has other OUs"):
        prap_pim.estimate(other, chip="isaac-32nm")


@pytest.mark.parametrize("method", ["similar", "orc", "calibrated"])
@pytest.mark.parametrize("trainable", [True, False])
def test_batch_norms_one_after_another_with_gradients_on(method: str, trainable: bool) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten())
    model = nn.Sequential(*layers, nn.BatchNorm1d(128), nn.Linear(128, 4)).requires_grad_(trainable)
    x = torch.randn(16, 3, 8, 8)
    for _ in range(20):
        model(x * 1.5 + 1)  # its statistics are of other inputs than those that it is compressed with
    with torch.enable_grad():
        found = prap_pim.compress(model, x, method, compute_ratio=0.7, quantize={"equalize": False})
    assert found.model(x).shape == (16, 4)
    model.eval()
    before = after = compressed_with(x)  # what the second batch norm reads, here and there
    assert len(before) == 8
    for i in range(4):
        if i in (0, 3) and (i == 3 or "0" in found.changed):
            after = read(found.plan, str(i), after)
        before, after = model[i](before), found.model[i](after)
    own, norm, axes = model[4], found.model[4], (0, 2, 3)
    mean = own.running_mean + after.mean(axes) - before.mean(axes)
    little = own.running_var / 1000 + own.eps  # so that a channel that hardly varies says little
    ratio = (after.var(axes, correction=0) + little) / (before.var(axes, correction=0) + little)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, own.running_var * ratio, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(norm.running_mean, own.running_mean, atol=1e-3)


def test_the_bit_true_network_is_called_as_the_model() -> None:
    tokens, images = inputs()
    found = prap_pim.compress(made(), [{"images": images, "tokens": tokens}], "dense")
    by_name = found.bit_true(tokens=tokens, images=images)
    assert list(by_name) == ["logits", "maps"]
    assert by_name["maps"].shape == (12, 6, 8, 8)
    torch.testing.assert_close(by_name["logits"], made().eval()(tokens, images)["logits"], atol=0.15, rtol=0)
    with pytest.raises(UserError, match="captured with the inputs images, tokens"):
        found.bit_true(tokens=tokens)


def test_a_saved_plan_is_costed_with_its_model(tmp_path: Any) -> None:
    model, x = plain()
    found = prap_pim.compress(model, x, "similar", keep=0.25)
    found.plan.save(tmp_path / "plan.safetensors")
    plan = NetworkPlan.load(tmp_path / "plan.safetensors")
    assert prap_pim.estimate(model, x, plan=plan).energy_j == prap_pim.estimate(found).energy_j
    with pytest.raises(UserError, match=r"must be a torch.nn.Module, not Linear"):
        prap_pim.compress(nn.Linear, x, compute_ratio=0.5)


@pytest.mark.parametrize("chip", ["isaac-32nm", "prap-2023"])
def test_a_saved_plan_is_costed_by_itself(tmp_path: Any, chip: str) -> None:
    found = prap_pim.compress(made(), [inputs()], "similar", compute_ratio=0.5)
    found.plan.save(tmp_path / "plan.safetensors")
    plan = NetworkPlan.load(tmp_path / "plan.safetensors")
    assert plan.digest() == found.plan.digest()
    assert prap_pim.estimate(plan, chip=chip) == prap_pim.estimate(found, chip=chip)
    assert prap_pim.estimate(plan, inputs(1)) == prap_pim.estimate(made(), inputs(), plan=plan)
    with pytest.raises(UserError, match="inputs of 149 values each, not 69"):
        prap_pim.estimate(plan, (inputs()[0], inputs()[1][:, :, :4, :4]))
    for layer, again in zip(found.network.layers, plan.network().layers, strict=True):
        folded = found.plan.layers[layer.name].real_weights()
        assert again.weight.shape == layer.weight.shape
        assert (again.matrix == folded.astype("float32")).all()
    NetworkPlan(plan.method, plan.layers, plan.input_step).save(tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="saved without its model's shapes"):
        prap_pim.estimate(NetworkPlan.load(tmp_path / "bare.safetensors"))


def test_numpy_arrays_are_inputs() -> None:
    model, x = plain()
    of_tensor = prap_pim.compress(model, x, "calibrated", compute_ratio=0.5)
    for array in (x.numpy(), x.double().numpy(), [x[:8].numpy(), x[8:].numpy()]):
        found = prap_pim.compress(model, array, "calibrated", compute_ratio=0.5)
        assert list(found.plan.layers) == list(of_tensor.plan.layers)
        if not isinstance(array, list):
            assert found.plan.digest() == of_tensor.plan.digest()
    assert prap_pim.estimate(model, x.numpy()) == prap_pim.estimate(model, x)
    with pytest.raises(UserError, match="must be numbers, not an array of <U1"):
        prap_pim.compress(model, x.numpy().astype(str).astype("U1"), "dense")


def test_results_show_themselves_in_notebooks_as_escaped_tables():
    found = prap_pim.compress(nn.Sequential(nn.Linear(16, 8)), torch.randn(8, 16), "dense", name="<b>mine</b>")
    costs = prap_pim.estimate(found)
    assert f"<td>{costs.energy_j:.4g} J</td>" in costs._repr_html_()
    assert "&lt;b&gt;mine&lt;/b&gt; (dense) on isaac-32nm" in costs._repr_html_()
    shown = found._repr_html_()
    assert shown.count("<tr>") == 2  # headings and one layer
    assert "<td>16</td><td>8</td>" in shown
    assert found.summary().splitlines()[0].startswith("dense: 1.0000 of the OU steps")


def test_results_are_short_in_a_python_prompt() -> None:
    """A linear layer of 16 rows and 8 filters, int8, on OUs of 8 rows and one weight: 2 row groups, 16 OUs."""
    found = prap_pim.compress(nn.Sequential(nn.Linear(16, 8)), torch.randn(8, 16), "dense", name="mine")
    costs = prap_pim.estimate(found)
    assert repr(found) == "Compression(mine: dense, 1.0000 of the OU steps, 0 of 1 layers, for isaac-32nm)"
    assert repr(found.plan) == "NetworkPlan(dense: 1 layers, 16 donors)"
    assert repr(found.plan.layers["0"]) == "LayerPlan(0: 16 inputs, 8 filters, 2 row groups, 16 donors, 16 uses)"
    assert repr(found.network) == "Network(mine: 1 layers, 128 weights)"
    assert repr(found.network.layers[0]) == "Layer(0: linear, weight 8x16, 1 positions)"
    assert repr(costs).startswith("CostReport(mine, dense, on isaac-32nm: 1 layers, ")
    assert f"{costs.pipelined.latency_s:.4g} s pipelined, " in repr(costs)
    assert f", {costs.energy_j:.4g} J, {costs.area_m2:.4g} m2, 1 crossbars)" in repr(costs)
    assert repr(costs.layers[0]).startswith("LayerCost(0: 128 OU steps, ")


def test_labels_are_left_out_where_the_model_takes_one_argument() -> None:
    model, x = plain()
    labels = torch.arange(len(x))
    alone = prap_pim.compress(model, [x], compute_ratio=0.5)
    for pairs in ([(x, labels)], [[x, labels]], DataLoader(TensorDataset(x, labels), batch_size=len(x))):
        assert prap_pim.compress(model, pairs, compute_ratio=0.5).plan.digest() == alone.plan.digest()
    assert alone.sqnr_db((x, labels)) == alone.sqnr_db(x)
    assert prap_pim.estimate(model, (x, labels)).energy_j == prap_pim.estimate(model, x).energy_j


class Scaled(nn.Module):
    """Takes two arguments, the second of which could be labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.layer(x) * scale[:, None]


def test_two_arguments_are_two_arguments() -> None:
    model, x, scale = Scaled(), torch.randn(8, 16), torch.rand(8)
    found = prap_pim.compress(model, [(x, scale)], "dense")
    assert torch.allclose(found.model(x, scale), model(x, scale), atol=1e-6)


def test_mistakes_in_calibration_inputs_are_told() -> None:
    model, x = plain()
    mistakes: list[tuple[Any, dict[str, Any], str]] = [
        (torch.tensor(1.0), {}, "a single number has none"),
        ([x[:8], x[8:, :5]], {}, r"batch 1 has inputs of \[\(.*\)\], the first of"),
        ((x, torch.arange(len(x))), {}, "batch 1 has tensors of .1. dimensions, the first of .*without labels"),
        (TensorDataset(x), {}, "not TensorDataset .torch.utils.data.DataLoader makes batches of it."),
        ([(x, x.new_zeros(len(x)), x)], {}, "does not run on an input"),
        (x, {"seed": -1}, "seed must be a whole number from 0 to 2\\*\\*31 - 1, not -1"),
        (x, {"seed": 1.5}, "not 1.5"),
        (x, {"seed": "a"}, "not 'a'"),
    ]
    for inputs_, options, answer in mistakes:
        with pytest.raises(UserError, match=answer):
            prap_pim.compress(model, inputs_, "calibrated", **{"compute_ratio": 0.5, **options})


def test_how_a_limit_was_met_is_told() -> None:
    model, x = plain()
    with pytest.raises(UserError, match="max_drop compares classes, and the outputs of Plain have none"):
        prap_pim.compress(model, x, max_drop=0.25)  # all ten are all but equally likely
    with torch.no_grad():
        model.b.weight *= 8
    used = compressed_with(x)
    assert len(used) == 56
    found = prap_pim.compress(model, x, max_drop=0.25)
    drop = float((found.bit_true(used).argmax(1) != model(used).argmax(1)).double().mean())
    assert f"{drop:.2%} of the calibration inputs are classified otherwise, at most 25.00%" in found.summary()
    assert "classified" not in prap_pim.compress(model, x, compute_ratio=0.5).summary()


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _normed() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("build", "limit", "settings", "told"),
    [
        (_mlp, 0.0, {}, ": it could not be met, every layer keeps all its patterns"),
        (_mlp, 0.02, {"bits": [2], "uses": 1}, ": no compute ratio below 1 that was tried meets it"),
        (_mlp, 0.3, {}, ""),
        (_normed, 0.3, {}, ""),
    ],
)
def test_the_drop_is_that_of_the_crossbars(build: Any, limit: float, settings: dict[str, Any], told: str) -> None:
    """Also where every layer keeps its patterns, whose weights are then int8, and batch norm is as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = build(), torch.randn(200, 32)
        model[-1].weight.data *= 30  # so that it tells classes apart
        for _ in range(40):  # feeds batch norm
            model.train()(x)
    found = prap_pim.compress(model.eval(), x, max_drop=limit, **settings)
    used = compressed_with(x)
    assert len(used) == 180
    drop = float((found.bit_true(used).argmax(1) != model(used).argmax(1)).double().mean())
    whole = f"{drop:.2%} of the calibration inputs are classified otherwise, at most {limit:.2%} allowed{told}"
    held = found.check.outputs[0].changed
    assert held is not None
    if not told and held > limit:
        whole += f"; but {held:.2%} of the 20 held-back ones: give more inputs, or allow less"
    assert whole in found.summary().splitlines()
    assert (drop > limit) == ("could not be met" in told)
    assert bool(told) == (not found.changed)


def test_the_summary_shows_what_the_budget_gave_each_layer() -> None:
    model, x = plain()
    found = prap_pim.compress(model, x, compute_ratio=0.3)
    assert found.calibration is not None
    notes, _, table = found.summary().partition("\n\n")
    assert notes.startswith("calibrated: 0.")
    head, *rows = table.splitlines()
    assert len(rows) == len(found.calibration.layers) == 2
    assert head.split()[-3:] == ["donors", "sensitivity", "error"]
    for layer, row in zip(found.calibration.layers, rows, strict=True):
        assert row.startswith(layer.name)
        assert row.endswith(f"{layer.error:.2%}")
        assert layer.setting is None or f"  {layer.setting.donors:,}" in row
    assert prap_pim.compress(model, x, "similar", keep=0.5).calibration is None


def test_equal_plans_are_equal_files(tmp_path: Any) -> None:
    plan = prap_pim.compress(*plain(), "similar", keep=0.5).plan
    plan.save(tmp_path / "first")
    for _ in range(8):  # the library's own order changes from file to file
        plan.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "first").read_bytes()
    assert NetworkPlan.load(tmp_path / "again").digest() == plan.digest()


def test_weights_without_size_or_of_complex_numbers_are_told() -> None:
    with pytest.raises(UserError, match=r"0.weight has no size yet: call the model once before"):
        prap_pim.compress(nn.Sequential(nn.LazyLinear(4)), torch.randn(8, 20), compute_ratio=0.5)
    with pytest.raises(UserError, match="weight holds complex numbers"):
        prap_pim.estimate(nn.Linear(4, 4, dtype=torch.complex64), torch.randn(8, 4, dtype=torch.complex64))


@pytest.mark.parametrize("how", ["script", "trace", "part", "function"])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused_with_what_to_do(how: str) -> None:
    x = torch.randn(4, 8)
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    if how == "part":
        model = nn.Sequential(torch.jit.script(nn.Linear(8, 8)))
    elif how == "function":
        model = torch.jit.trace(torch.relu, x)
    else:
        model = torch.jit.script(model) if how == "script" else torch.jit.trace(model, x)
    for call in (lambda: prap_pim.compress(model, x, compute_ratio=0.5), lambda: prap_pim.estimate(model)):
        with pytest.raises(UserError, match=r"is TorchScript.*load_state_dict.*prap-pim compress") as caught:
            call()
        assert ("module 0 of the model" in str(caught.value)) == (how == "part")
        assert "\n" not in str(caught.value)


def test_long_names_are_cut_in_tables_alone() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a" * 150 + "_1", nn.Linear(8, 8))
            self.add_module("a" * 150 + "_2", nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            for each in self.children():
                x = each(x)
            return x

    found = prap_pim.compress(Long(), torch.randn(9, 8), "similar", keep=0.5)
    for shown in (found.summary(), found._repr_html_()):
        assert "a" * 16 + "…" + "a" * 41 + "_1" in shown
        assert "a" * 60 not in shown
    assert list(found.plan.layers) == ["a" * 150 + "_1", "a" * 150 + "_2"]


class _Tied(nn.Module):
    """A weight that two layers share, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(torch.relu(self.first(torch.relu(self.first(x)))))
        return hidden


def test_layers_that_share_a_weight_and_not_their_bias_are_two() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 16)
    found = prap_pim.compress(_Tied(), x, compute_ratio=0.5, quantize={"equalize": False})
    assert [layer.name for layer in found.network.layers] == ["first", "second"]
    exact, own = found.bit_true(x), found.model(x)
    assert (exact - own).square().sum() < 0.01 * (exact - exact.mean(0)).square().sum()
    assert found.model.first.weight is not found.model.second.weight
    settings = {
        x.name: x.setting for x in prap_pim.compress(_Tied(), x, compute_ratio=0.9, skip="second").calibration.layers
    }
    assert settings["second"] is None
    assert settings["first"] is not None


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 8), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"p": self.one(x), "q": self.two(x)}


def test_outputs_are_weighed_by_number_too() -> None:
    x = torch.randn(64, 16)
    for weights in ({"p": 0}, {"0": 0}, {0: 0.0}):
        found = prap_pim.compress(_Two(), x, compute_ratio=0.5, outputs=weights)
        assert [output.name for output in found.check.outputs] == ["q"]
    found = prap_pim.compress(_Two(), x, compute_ratio=0.5, outputs={"q": 2})
    assert [output.name for output in found.check.outputs] == ["p", "q"]  # what is not named counts 1


class _Scaled(nn.Sequential):
    def forward(self, x: Tensor, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return super().forward(x) * scale + shift


def test_what_is_no_tensor_is_as_it_was_captured() -> None:
    x = torch.randn(64, 16)
    model = _Scaled(nn.Linear(16, 8))
    found = prap_pim.compress(model, [{"x": x[:32], "scale": 2.0}, {"x": x[32:], "scale": 2.0}], "dense")
    wanted = found.bit_true(x=x, scale=2.0)
    for given, named in (((x, 2.0), {}), ((x,), {"scale": 2.0}), ((), {"scale": 2.0, "x": x, "shift": 0.0})):
        assert torch.equal(found.bit_true(*given, **named), wanted)
    for named, why in (
        ({"scale": 3.0}, r"captured with 2.0 at \['scale'\], not 3.0"),
        ({}, r"captured with 2.0 at \['scale'\], not 1.0"),  # the model's own
        ({"scale": 2.0, "shift": 1.0}, "captured with the inputs x, scale, not with shift"),
        ({"factor": 2.0}, "captured with the inputs x, scale: got an unexpected"),
    ):
        with pytest.raises(UserError, match=why):
            found.bit_true(x, **named)
    with pytest.raises(UserError, match=r"does not run on this batch: .*cannot be multiplied"):
        found.sqnr_db({"x": x[:, :4], "scale": 2.0})
    in_order = prap_pim.compress(model, x, "dense")
    assert torch.equal(in_order.bit_true(x, 1.0), in_order.bit_true(x=x))
    with pytest.raises(UserError, match="not with scale"):
        in_order.bit_true(x, 2.0)
    with pytest.raises(UserError, match=r"batch 1 has 3.0 at \['scale'\], the first 2.0"):
        prap_pim.compress(model, [{"x": x, "scale": 2.0}, {"x": x, "scale": 3.0}], "dense")


def test_signal_to_noise_is_that_of_what_varies() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8)), torch.randn(40, 16)
    model[0].bias.data += 100
    found = prap_pim.compress(model, x, "dense")
    with torch.no_grad():
        own, other = model(x).double(), found.bit_true(x).double()
    wanted = 10 * torch.log10((own - own.mean(0)).square().sum() / (own - other).square().sum())
    assert found.sqnr_db(x) == pytest.approx(float(wanted), abs=1e-6)


class _Turned(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = super().forward(x)
        return (hidden.T, hidden @ hidden.T, hidden) if self.training else (hidden.T, hidden @ hidden.T)


class _TurnedToo(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = super().forward(x)
        return hidden.T, hidden @ hidden.T, hidden


@pytest.mark.parametrize("count", [64, 100])
def test_an_output_whose_inputs_are_not_in_front_is_not_judged(count: int) -> None:
    x = torch.randn(count, 16)
    found = prap_pim.compress(_TurnedToo(nn.Linear(16, 8)), x, compute_ratio=0.5)
    assert [output.name for output in found.check.outputs] == ["2"]
    with pytest.raises(UserError, match="for every input, the inputs in front"):
        prap_pim.compress(_Turned(nn.Linear(16, 8)), x, compute_ratio=0.5)


class _ReadTwice(nn.Module):
    """One parameter, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(24, 16) / 4), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.head(torch.relu(x @ self.weight.T) @ self.weight)
        return hidden


@pytest.mark.parametrize("method", ["calibrated", "orc"])
def test_what_is_read_in_two_ways_is_left_whole(method: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 16)
    found = prap_pim.compress(_ReadTwice(), x, method, compute_ratio=0.9)
    assert found.changed == ("head",)
    assert f"left dense: {', '.join(layer.name for layer in found.network.layers[:2])}, which read" in found.summary()
    exact, own = found.bit_true(x), found.model(x)
    assert (exact - own).square().sum() < 0.01 * (exact - exact.mean(0)).square().sum()


@pytest.mark.parametrize("skip", ["first", "second", ()])
@pytest.mark.parametrize("method", ["calibrated", "orc"])
def test_of_layers_that_share_a_weight_one_may_stay(method: str, skip: str) -> None:
    torch.manual_seed(0)
    model, x = _Tied(), torch.randn(200, 16)
    found = prap_pim.compress(model, x, method, compute_ratio=0.9, skip=skip, quantize={"equalize": False})
    exact, own = found.bit_true(x), found.model(x)
    assert (exact - own).square().sum() < 0.01 * (exact - exact.mean(0)).square().sum()
    for name in ("first", "second"):
        kept = torch.equal(found.model.get_submodule(name).weight, model.first.weight)
        assert kept == (name not in found.changed)


def test_hooks_that_look_on_see_no_tracing() -> None:
    model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), torch.randn(64, 16)
    plain = prap_pim.compress(model, x, compute_ratio=0.5)
    model.seen = []
    model[2].register_forward_pre_hook(lambda _, given: model.seen.append(given[0]))
    found = prap_pim.compress(model, x, compute_ratio=0.5)
    assert found.plan.digest() == plain.plan.digest()
    assert all(type(each) is Tensor for each in model.seen)


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    model = _Scaled(nn.Linear(16, 8))
    with pytest.raises(UserError, match="output 0 is NaN on the first calibration inputs"):
        prap_pim.compress(model, [{"x": torch.randn(64, 16), "scale": float("nan")}], "dense")


def test_what_cannot_be_copied_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    model[2].kept = [model(torch.randn(2, 16))]
    prap_pim.compress(model, torch.randn(64, 16), compute_ratio=0.5)
    model[2].kept = [[model(torch.randn(2, 16))]]
    with pytest.raises(UserError, match="a module keeps a tensor computed from others, such as activations"):
        prap_pim.compress(model, torch.randn(64, 16), compute_ratio=0.5)


def test_inputs_that_are_no_numbers_and_settings_that_contradict_are_refused() -> None:
    model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), torch.randn(64, 16)
    for method, setting in {"similar": "keep", "identical": "threshold", "orc": "ratio"}.items():
        with pytest.raises(UserError, match=f"method {method}: give either {setting} or compute_ratio"):
            prap_pim.compress(model, x, method, compute_ratio=0.5, **{setting: 0.25})
    x[3, 2] = torch.nan
    with pytest.raises(UserError, match="calibration batch 0 holds NaN"):
        prap_pim.compress(model, x, compute_ratio=0.5)


def test_inputs_so_large_that_float32_overflows_are_checked_all_the_same() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    found = prap_pim.compress(model, 1e19 * torch.randn(64, 16), "orc", compute_ratio=0.5)
    assert all(0 <= lost < torch.inf for lost in found.check.worst.values())


@pytest.mark.parametrize("size", [1e25, 1e38])
def test_inputs_whose_squares_overflow_are_refused(size: float) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    with pytest.raises(UserError, match=r"layer 0: .*overflows: give inputs of a smaller size"):
        prap_pim.compress(model, size * x, compute_ratio=0.5)


def test_classes_are_seen_through_what_only_passes_them_on_and_a_norm_gives_none() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    base = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    ends = {nn.Softmax(-1): True, nn.Identity(): True, nn.LayerNorm(10): False}
    for end, classes in ends.items():
        tail = [nn.Softmax(-1), end, nn.Dropout()] if isinstance(end, nn.Identity) else [end]
        found = prap_pim.compress(nn.Sequential(base, *tail), x, compute_ratio=0.8)
        assert (found.check.outputs[0].changed is not None) == classes, end


def test_a_compression_is_costed_on_the_chip_that_it_was_made_for() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8)), torch.randn(64, 32)
    found = prap_pim.compress(model, x, "similar", keep=0.5, chip="survey-32nm")
    assert prap_pim.estimate(found).chip == prap_pim.load_chip("survey-32nm")
    assert prap_pim.estimate(model, x, plan=found).chip == prap_pim.load_chip("survey-32nm")
    assert prap_pim.estimate(found, chip="isaac-32nm").chip == prap_pim.load_chip("isaac-32nm")
    assert prap_pim.estimate(model, x).chip == prap_pim.load_chip("isaac-32nm")
