"""Plans: right for every pair of methods, unchanged by a file, and impossible to build wrongly."""

from dataclasses import fields, replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from prap_pim.common.errors import UserError
from prap_pim.hardware.grain import Grain
from prap_pim.ir.patterns import PatternSet, ReuseMap, plan_weights
from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.methods.prune import NoPruning, OrcPruning, PatternPruning, StructuredPruning, prune
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, SimilarReuse, reuse
from tests.layers import layer_of, weights
from tests.reference.compress import slow_compressed_weights, slow_steps
from tests.strategies import examples, layer_plans

PRUNE = [
    NoPruning(),
    PatternPruning(group_channels=2, pointwise_group=16),
    PatternPruning(group_channels=8, shapes=3),
    StructuredPruning(ratio=0.65),
    OrcPruning(ratio=0.2),
]
REUSE = [NoReuse(), SimilarReuse(keep=0.3), SimilarReuse(keep=1), IdenticalReuse(threshold=0.75)]


@pytest.mark.parametrize(("pruning", "reusing"), product(PRUNE, REUSE), ids=lambda config: config.kind)
@examples(12)
@given(weight=weights([(), (1, 1), (2, 2), (3, 3)]), seed=st.integers(0, 99))
def test_a_plan_computes_the_compressed_weights(
    pruning: object, reusing: object, weight: np.ndarray, seed: int
) -> None:
    layer = layer_of(weight)
    patterns = prune(pruning, layer, Grain())
    decided = reuse(reusing, layer, patterns, Grain())
    rng = np.random.default_rng(seed)
    scale, bias = rng.standard_normal((2, len(weight))).astype(np.float32)
    plan = plan_weights(layer.name, layer.matrix, patterns, decided).scaled(scale, bias)
    slow = slow_compressed_weights(layer.matrix, patterns, decided)
    unit = Fraction(1, 2**plan.fraction_bits)
    assert [[int(value) * unit for value in row] for row in plan.weights()] == slow
    step = scale * np.array(slow_steps(layer.matrix, decided))
    np.testing.assert_allclose(plan.real_weights(), np.array(slow, float) * step[:, None], rtol=1e-6)
    np.testing.assert_array_equal(plan.bias, bias)


@examples(30)
@given(weights([(), (3, 3)]), st.integers(0, 2**32))
def test_any_signs_exponents_and_sources(weight: np.ndarray, seed: int) -> None:
    layer = layer_of(weight)
    patterns = prune(PRUNE[1], layer, Grain())
    rng = np.random.default_rng(seed)
    own = np.arange(layer.filters, dtype=np.int32)[:, None]
    donor = rng.random(patterns.shape.shape) < 0.5
    donor[0] = True
    source = rng.integers(-1, layer.filters, donor.shape).astype(np.int32)
    source[~np.take_along_axis(donor, np.maximum(source, 0), axis=0)] = -1  # a reuser's source is a donor
    source = np.where(donor, own, source)
    sign = np.where(donor, 1, rng.choice([-1, 1], donor.shape)).astype(np.int8)
    exponent = np.where(donor, 0, rng.integers(-8, 8, donor.shape)).astype(np.int8)
    decided = ReuseMap(source, sign, exponent)
    np.ones(layer.filters, np.float32)
    plan = plan_weights(layer.name, layer.matrix, patterns, decided)
    unit = Fraction(1, 2**plan.fraction_bits)
    slow = slow_compressed_weights(layer.matrix, patterns, decided)
    assert [[int(value) * unit for value in row] for row in plan.weights()] == slow


def test_dense_by_hand() -> None:
    weight = np.array([[127, -1, 0.5, 1.5], [2, 4, 0, 63.5]], np.float32)  # steps 1 and 0.5
    layer = layer_of(weight)
    patterns = prune(NoPruning(), layer, Grain(ou_rows=3))
    plan = plan_weights("fc", weight, patterns, ReuseMap.none(patterns))
    np.testing.assert_array_equal(plan.step, [1, 0.5])
    np.testing.assert_array_equal(plan.weights(), [[127, -1, 0, 2], [4, 8, 0, 127]])
    np.testing.assert_array_equal(plan.rows, [[0, 1, 2], [3, -1, -1]])
    np.testing.assert_array_equal(plan.donors, [[127, -1, 0], [4, 8, 0], [2, 0, 0], [127, 0, 0]])
    np.testing.assert_array_equal(plan.use_donor, [0, 1, 2, 3])


@pytest.mark.parametrize("pruning", PRUNE, ids=lambda config: config.kind)
def test_a_large_filter_does_not_harm_the_others(pruning: object) -> None:
    """Where filters store their own patterns, each is as precise as if it were alone: half a step of its own."""
    weight = np.random.default_rng(0).normal(size=(8, 16, 3, 3)).astype(np.float32)
    weight[3] *= 1000
    layer = layer_of(weight)
    patterns = prune(pruning, layer, Grain())
    plan = plan_weights(layer.name, layer.matrix, patterns, ReuseMap.none(patterns))
    largest = np.abs(layer.matrix).max(1)
    np.testing.assert_allclose(plan.step, largest / 127, rtol=1e-6)
    off = np.abs(plan.real_weights() - layer.matrix * patterns.mask())
    assert (off <= largest[:, None] / 254 * 1.0001).all()


def test_filters_that_reuse_one_another_share_a_step() -> None:
    """As PRAP publishes it: the donor's integers are the reuser's. By hand, of two filters and one block."""
    weight = np.array([[254, 2, -6, 0], [1, 1, -3, 0]], np.float32)
    patterns = prune(NoPruning(), layer_of(weight), Grain(ou_rows=4))
    one, exponent = np.ones((2, 1), np.int8), np.array([[0], [-1]], np.int8)
    plan = plan_weights("fc", weight, patterns, ReuseMap(np.zeros((2, 1), np.int32), one, exponent))
    np.testing.assert_array_equal(plan.step, [2, 2])
    np.testing.assert_array_equal(plan.donors, [[127, 1, -3, 0]])
    np.testing.assert_array_equal(plan.real_weights(), [[254, 2, -6, 0], [127, 1, -3, 0]])
    own = plan_weights("fc", weight, patterns, ReuseMap.none(patterns))
    np.testing.assert_allclose(own.step, [2, 3 / 127])
    np.testing.assert_array_equal(own.donors, [[127, 1, -3, 0], [42, 42, -127, 0]])


def test_plan_of_weights_that_do_not_match() -> None:
    layer = layer_of(np.ones((4, 20), np.float32))
    patterns = prune(NoPruning(), layer, Grain())
    np.ones(4, np.float32)
    with pytest.raises(UserError, match="do not match"):
        plan_weights("fc", np.ones((4, 21), np.float32), patterns, ReuseMap.none(patterns))
    with pytest.raises(UserError, match="layer fc: its weight holds NaN"):
        plan_weights("fc", layer.matrix * np.nan, patterns, ReuseMap.none(patterns))
    none_there = PatternSet(20, patterns.rows, patterns.block_start, np.full((4, 3), -1, np.int32))
    with pytest.raises(UserError, match="a donor that has no pattern"):
        plan_weights("fc", layer.matrix, none_there, ReuseMap.none(patterns))


@examples(30)
@given(st.lists(layer_plans(), min_size=1, max_size=3), st.data())
def test_save_and_load_change_nothing(tmp_path_factory: pytest.TempPathFactory, plans: list[LayerPlan], data) -> None:
    named = [replace(plan, name=f"{i}.{data.draw(st.text(max_size=5))}") for i, plan in enumerate(plans)]
    steps = {plan.name: data.draw(st.floats(1e-30, 1e30)) for plan in named}
    zeros = {plan.name: data.draw(st.integers(-128, 127)) for plan in named}
    of_layers = {plan.name: plan for plan in named}
    network = NetworkPlan(data.draw(st.text(max_size=5)), of_layers, steps, input_zero=zeros)
    path = tmp_path_factory.mktemp("plan") / "plan.safetensors"
    network.save(path)
    loaded = NetworkPlan.load(path)
    assert (loaded.method, dict(loaded.input_step), list(loaded.layers)) == (
        network.method,
        steps,
        [p.name for p in named],
    )
    assert all(loaded.layers[plan.name].same_as(plan) for plan in named)
    assert loaded.input_zero == zeros
    assert loaded.digest() == network.digest()
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.safetensors"]


def good_plan() -> LayerPlan:
    """Two row groups of three rows, four donors, five uses, three filters."""
    return LayerPlan(
        name="fc",
        inputs=5,
        rows=np.array([[0, 1, 2], [3, 4, -1]], np.int32),
        donors=np.array([[1, 2, 3], [-4, 5, 6], [7, -8, 0]], np.int8),
        donor_start=np.array([0, 2, 3]),
        use_start=np.array([0, 3, 5]),
        use_filter=np.array([0, 1, 2, 0, 2], np.int32),
        use_donor=np.array([0, 1, 0, 2, 2], np.int32),
        use_sign=np.array([1, 1, -1, 1, 1], np.int8),
        use_exponent=np.array([0, 0, -2, 0, 3], np.int8),
        step=np.array([0.5, 1, -2], np.float32),
        bias=np.zeros(3, np.float32),
    )


def test_good_plan_by_hand() -> None:
    plan = good_plan()
    assert plan.fraction_bits == 2
    np.testing.assert_array_equal(
        plan.weights(), [[4, 8, 12, 28, -32], [-16, 20, 24, 0, 0], [-1, -2, -3, 7 * 32, -8 * 32]]
    )


def test_a_filter_takes_several_donors_by_hand() -> None:
    """Filter 0 takes both donors of the first row group, filter 2 the second one's twice its own."""
    plan = replace(
        good_plan(),
        use_start=np.array([0, 5, 7]),
        use_filter=i32(0, 0, 1, 2, 2, 0, 2),
        use_donor=i32(0, 1, 1, 0, 1, 2, 2),
        use_sign=i8(1, -1, 1, 1, 1, 1, 1),
        use_exponent=i8(0, 1, 0, 0, -1, 0, 0),
    )
    # 2 * (A - 2 B), 2 * B and 2 * (A + B / 2) with A = (1, 2, 3), B = (-4, 5, 6)
    np.testing.assert_array_equal(plan.weights(), [[18, -16, -18, 14, -16], [-8, 10, 12, 0, 0], [-2, 9, 12, 14, -16]])
    unordered, twice = i32(1, 0, 1, 0, 1, 2, 2), i32(0, 0, 1, 0, 1, 2, 2)
    for wrong in (unordered, twice):
        with pytest.raises(UserError, match="ascending order of filter and donor, each pair once"):
            replace(plan, use_donor=wrong)


def test_the_bits_of_donors_stay_with_a_plan() -> None:
    whole = good_plan()
    plan = replace(whole, weight_bits=4)
    assert (whole.largest_weight, plan.largest_weight) == (127, 7)
    assert not plan.same_as(whole)
    assert plan.digest() != whole.digest()
    digests = {replace(whole, weight_bits=bits).digest() for bits in (4, 5, 6, 7, 8)}
    assert len(digests) == 5
    assert plan.alone().weight_bits == plan.scaled(plan.step, plan.bias).weight_bits == 4
    assert LayerPlan.of_groups("fc", [plan, whole]).weight_bits == 8
    together = LayerPlan.of_groups("fc", [plan, replace(whole, weight_bits=5)])
    assert (together.weight_bits, together.convolution_groups) == (5, 2)
    assert repr(plan) == "LayerPlan(fc: 5 inputs, 3 filters, 2 row groups, 3 donors of 4 bits, 5 uses)"


def i8(*values: int) -> np.ndarray:
    return np.array(values, np.int8)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


MUTATIONS = [
    ("inputs", 0, "at least one input"),
    ("inputs", 4, r"rows must lie in -1..3"),
    ("rows", i32(0, 1, 2, 3, 4, -1), r"rows must be \[groups, h\]"),
    ("rows", np.array([[0, 1, 2], [3, 4, -1]]), "rows must be an array of int32"),
    ("rows", [[0, 1, 2], [3, 4, -1]], "rows must be an array of int32"),
    ("rows", np.empty((2, 0), np.int32), r"rows must be \[groups, h\]"),
    ("rows", np.array([[0, 1, 2], [3, 5, -1]], np.int32), "rows must lie in"),
    ("rows", np.array([[0, 1, 2], [3, -2, -1]], np.int32), "rows must lie in"),
    ("rows", np.array([[0, 1, 0], [3, 4, -1]], np.int32), "names one row twice"),
    ("rows", np.array([[0, 1, 2], [3, -1, -1]], np.int32), "a weight on an unused row"),
    ("donors", np.array([[1, 2], [-4, 5], [7, -8]], np.int8), r"donors must be \[donors, 3\]"),
    ("donors", np.array([[1, 2, 3], [-4, 5, 6], [7, -8, 9]], np.int8), "a weight on an unused row"),
    ("donors", np.ones((4, 3), np.int8), "donor_start must rise from 0 to 4"),
    ("donor_start", np.array([0, 3]), "donor_start must rise"),
    ("donor_start", np.array([1, 2, 3]), "donor_start must rise"),
    ("donor_start", np.array([0, 4, 3]), "donor_start must rise"),
    ("donor_start", np.array([0, 1, 3]), "another row group|unused row"),
    ("donor_start", np.array([[0, 2, 3]]), "donor_start must have one dimension"),
    ("use_start", np.array([0, 3, 4]), "use_start must rise"),
    ("use_start", np.array([0, 4, 5]), "ascending order of filter"),
    ("use_filter", i32(0, 1, 2, 0, 3), r"use_filter must lie in 0..2"),
    ("use_filter", i32(0, 1, 2, -1, 2), r"use_filter must lie in 0..2"),
    ("use_filter", i32(0, 2, 1, 0, 2), "ascending order of filter"),
    ("use_filter", i32(0, 1, 1, 0, 2), "ascending order of filter and donor"),
    ("use_donor", i32(0, 1, 2, 2, 2), "a donor of another row group"),
    ("use_donor", i32(0, 1, 0, 2, 3), "a donor of another row group"),
    ("use_donor", i32(0, 0, 0, 2, 2), "a donor is used by no filter"),
    ("use_donor", i32(0, 1, 0, 2), "one length"),
    ("use_sign", i8(1, 1, 0, 1, 1), "use_sign must be 1 or -1"),
    ("use_sign", i8(1, 1, 1, 1), "one length"),
    ("use_exponent", i8(0, 0, -9, 0, 3), r"use_exponent must lie in -8..7"),
    ("use_exponent", i8(0, 0, 8, 0, 3), r"use_exponent must lie in -8..7"),
    ("step", f32(0.5, np.nan, 1), "finite"),
    ("step", f32(0.5, 1), "one value per filter"),
    ("bias", f32(0, 0, np.inf), "finite"),
    ("bias", np.zeros(3), "bias must be an array of float32"),
    ("convolution_groups", 2, "shared out evenly among 2 convolution groups"),
    ("convolution_groups", 0, "shared out evenly among 0 convolution groups"),
    ("weight_bits", 3, r"donors of 3 bits must lie in -4..3"),
    ("weight_bits", 1, r"weight_bits must be a whole number in 2..8"),
    ("weight_bits", 9, r"weight_bits must be a whole number in 2..8"),
    ("weight_bits", 4.0, r"weight_bits must be a whole number in 2..8"),
    ("weight_bits", True, r"weight_bits must be a whole number in 2..8"),
    ("weight_bits", None, r"weight_bits must be a whole number in 2..8"),
    ("input_bits", 1, r"input_bits must be a whole number in 2..8"),
    ("input_bits", 9, r"input_bits must be a whole number in 2..8"),
    ("input_bits", 4.0, r"input_bits must be a whole number in 2..8"),
]


@pytest.mark.parametrize(("field", "value", "message"), MUTATIONS)
def test_an_invalid_plan_cannot_be_built(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=f"plan of fc: .*({message})"):
        replace(good_plan(), **{field: value})


def test_every_field_is_mutated() -> None:
    assert {field for field, _, _ in MUTATIONS} == {field.name for field in fields(LayerPlan)} - {"name"}


def test_a_plan_keeps_its_own_arrays() -> None:
    donors = np.ones((3, 3), np.int8)
    donors[2, 2] = 0
    plan = replace(good_plan(), donors=donors)
    donors[:] = 9
    assert plan.donors.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        plan.donors[0, 0] = 3


def test_an_invalid_network_plan_cannot_be_built() -> None:
    plan = good_plan()
    for layers, steps, message in (
        ({}, {}, "at least one layer"),
        ({"other": plan}, {"other": 1.0}, "must be its layers' names"),
        ({"fc": plan}, {}, "one input step for every layer"),
        ({"fc": plan}, {"fc": 1.0, "fd": 1.0}, "one input step for every layer"),
        ({"fc": plan}, {"fc": 0.0}, "positive and finite"),
        ({"fc": plan}, {"fc": float("nan")}, "positive and finite"),
    ):
        with pytest.raises(UserError, match=message):
            NetworkPlan("prap", layers, steps)
    for zeros, message in (
        ({"fd": 1}, "an input's zero must be a layer's"),
        ({"fc": -129}, "must be a whole number in -128..127"),
        ({"fc": 128}, "must be a whole number in -128..127"),
        ({"fc": 1.0}, "must be a whole number in -128..127"),
        ({"fc": True}, "must be a whole number in -128..127"),
    ):
        with pytest.raises(UserError, match=message):
            NetworkPlan("prap", {"fc": plan}, {"fc": 1.0}, input_zero=zeros)
    assert NetworkPlan("prap", {"fc": plan}, {"fc": 1.0}).input_zero == {"fc": 0}


def test_digest_sees_every_value() -> None:
    plan = good_plan()
    changed = [
        replace(plan, inputs=6),
        replace(plan, donors=plan.donors + np.array([[1, 0, 0]] * 3, np.int8)),
        replace(plan, use_exponent=plan.use_exponent + np.int8(1)),
        replace(plan, use_sign=-plan.use_sign),
        replace(plan, step=plan.step * 2),
        replace(plan, bias=plan.bias + 1),
    ]
    networks = [NetworkPlan("prap", {"fc": one}, {"fc": 1.0}) for one in [plan, *changed]]
    networks += [NetworkPlan("dense", {"fc": plan}, {"fc": 1.0}), NetworkPlan("prap", {"fc": plan}, {"fc": 2.0})]
    networks += [NetworkPlan("prap", {"fc": plan}, {"fc": 1.0}, input_zero={"fc": zero}) for zero in (-128, 5)]
    assert len({network.digest() for network in networks}) == len(networks)
    assert not any(plan.same_as(other) for other in changed)


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.safetensors"
    with pytest.raises(UserError, match=r"cannot read .*plan.safetensors"):
        NetworkPlan.load(path)
    NetworkPlan("prap", {"fc": good_plan()}, {"fc": 1.0}).save(path)
    whole = path.read_bytes()
    broken = [whole[:end] for end in (0, 1, 8, 20, len(whole) // 2, len(whole) - 1)]
    broken += [b"garbage" * 50, whole + b"x", whole.replace(b"network plan 1", b"network plan 9")]
    broken += [whole.replace(b'0.use_sign"', b'0.use_sihn"'), whole.replace(b'\\"fc\\"', b'\\"fc] ')]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*plan.safetensors") as raised:
            NetworkPlan.load(path)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="cannot read"):
        NetworkPlan.load(tmp_path)


# of the plan below, as commit 1eaf9c0 computed it, the last without zero points
OLD_DIGEST = "923b16edc0a44770a6dc3d0d62dcf6372a13a93b24bf50b21face588ec0519cb"


def test_a_plan_file_from_before_zero_points_is_read(tmp_path: Path) -> None:
    """Its header says nothing of zeros: all are 0, and the plan is the one that it was."""
    path, older = tmp_path / "plan.safetensors", tmp_path / "older.safetensors"
    plan = NetworkPlan("prap", {"fc": good_plan()}, {"fc": 0.5})
    plan.save(path)
    with safe_open(path, framework="numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the reader is no mapping)
        metadata = file.metadata()
    assert metadata.pop("input_zero") == "[0]"
    save_file(tensors, older, metadata=metadata)
    loaded = NetworkPlan.load(older)
    assert loaded.input_zero == {"fc": 0}
    assert loaded.layers["fc"].same_as(plan.layers["fc"])
    assert loaded.digest() == plan.digest() == OLD_DIGEST
    for wrong in ("[0.5]", "[128]", "[0, 0]", "[]", "0"):
        save_file(tensors, older, metadata=metadata | {"input_zero": wrong})
        with pytest.raises(UserError, match=r"zero must be a whole number|not a whole plan"):
            NetworkPlan.load(older)


@examples(60)
@given(st.data())
def test_a_changed_byte_is_a_user_error_or_another_plan(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.safetensors"
    network = NetworkPlan("prap", {"fc": good_plan()}, {"fc": 1.0})
    network.save(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        loaded = NetworkPlan.load(path)
    except UserError:
        return
    assert loaded.digest() != network.digest() or content[place] in b" \x00\n\t\r"


@pytest.mark.parametrize(
    ("header", "extra", "message"),
    [
        ({"inputs": "[5.5]"}, {}, "inputs, convolution groups and bits must be whole numbers"),
        ({"layers": "[7]"}, {}, "layer names must be different texts"),
        ({"layers": '["fc", "fc"]', "inputs": "[5, 5]", "input_step": "[1, 1]"}, {}, "different texts"),
        ({"inputs": "[" * 100_000}, {}, ""),
        ({"input_step": "[0]"}, {}, "positive and finite"),
        ({"network": "{}"}, {}, "network"),
        ({}, {"0.use_sign": np.full(4, 5, np.int8)}, "plan of fc: "),
        ({}, {"stowaway": np.zeros(1)}, "its tensors are not those of its layers"),
    ],
)
def test_a_file_with_odd_parts_is_no_plan(tmp_path: Path, header, extra, message: str) -> None:
    path = tmp_path / "plan.safetensors"
    NetworkPlan("prap", {"fc": good_plan()}, {"fc": 1.0}).save(path)
    with safe_open(path, framework="numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the reader is no mapping)
        metadata = file.metadata()
    save_file(tensors | extra, path, metadata=metadata | header)
    with pytest.raises(UserError, match=f"cannot read {path}: it is not a whole plan .*{message}"):
        NetworkPlan.load(path)


def test_a_plan_file_says_how_many_bits_its_weights_have_if_they_are_not_8(tmp_path: Path) -> None:
    """A header without the key, as older files have: 8."""
    path = tmp_path / "plan.safetensors"
    plan = good_plan()
    tensors = {f"0.{key}": value for key, value in vars(plan).items() if isinstance(value, np.ndarray)}
    metadata = {"format": "prap-pim network plan 1", "method": "prap", "layers": '["fc"]', "inputs": "[5]"}
    metadata |= {"input_step": "[0.5]"}
    save_file(tensors, path, metadata=metadata)
    loaded = NetworkPlan.load(path)
    assert loaded.layers["fc"].same_as(plan)
    assert loaded.layers["fc"].weight_bits == 8
    assert loaded.digest() == OLD_DIGEST
    save_file(tensors, path, metadata=metadata | {"weight_bits": "[4]"})
    assert NetworkPlan.load(path).layers["fc"].same_as(replace(plan, weight_bits=4))
    assert NetworkPlan.load(path).digest() != OLD_DIGEST
    for wrong in ("[3]", "[9]", "[4.0]", "[true]", "[4, 4]", "[]", "4"):
        save_file(tensors, path, metadata=metadata | {"weight_bits": wrong})
        with pytest.raises(UserError, match=r"cannot read .*plan.safetensors: it is not a whole plan"):
            NetworkPlan.load(path)
    for bits, said in (({"a": 8, "b": 8}, None), ({"a": 8, "b": 4}, "[8, 4]")):
        layers = {name: replace(plan, name=name, weight_bits=each) for name, each in bits.items()}
        NetworkPlan("prap", layers, dict.fromkeys(layers, 1.0)).save(path)
        with safe_open(path, framework="numpy") as file:
            assert file.metadata().get("weight_bits") == said
