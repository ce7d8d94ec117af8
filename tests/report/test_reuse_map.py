"""Which filters share which donors: by hand, and bounded however large the layer is."""

import base64
import gzip
import json
import re
import shlex
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from prap_pim.common.errors import UserError
from prap_pim.ir.plan import NetworkPlan
from prap_pim.report.html.reuse_map import reuse_maps
from prap_pim.report.html.run import Evidence, render
from prap_pim.results.folder import RunFolder
from tests.report.made_up import layer, many, method, results, shared_layer, shared_plan, summing_layer

ROOM = 3_000_000


def unpacked(found):
    return json.loads(gzip.decompress(base64.b64decode(found.data, validate=True)))


def by_filter(found, place):
    """Of one row group: for each filter its donor and gain, or None."""
    row, at = [None] * found["filters"], -1
    for step, donor, gain in zip(*found["uses"][place], strict=True):
        at += step
        row[at] = (donor, found["gain_names"][gain])
    return row


def test_a_map_by_hand():
    (packed,) = reuse_maps({"prap": shared_plan(names=("conv",))}, ROOM).maps
    assert (packed.method, packed.layer, packed.sharing) == ("prap", "conv", 2)
    found = unpacked(packed)
    assert (found["method"], found["layer"], found["filters"], found["groups"]) == ("prap", "conv", 8, [0, 1])
    assert (found["part"], found["most"], found["start"]) == ("", 3, [0, 0])
    assert by_filter(found, 0) == [(0, "+1"), (1, "+1"), None, (0, "−1/2"), None, (0, "+2"), None, None]
    assert by_filter(found, 1) == [None, None, (0, "+1"), None, (0, "+1/4"), None, None, None]
    assert found["summary"] == (
        "3 donors serve 6 uses of 8 filters in 2 row groups: 2.00 filters a donor on the average, 3 at most; "
        "33.33 % of the donors serve one filter"
    )
    assert found["gains"][0] == ["+1", "3", "50.00 %"]
    assert sorted(found["gains"][1:]) == [[gain, "1", "16.67 %"] for gain in ("+1/4", "+2", "−1/2")]


def test_a_filter_that_takes_several_donors_is_there_with_each():
    plan = summing_layer("conv")
    (packed,) = reuse_maps({"m": NetworkPlan("m", {"conv": plan}, {"conv": 1.0})}, ROOM).maps
    found = unpacked(packed)
    assert found["uses"][0][:2] == [[1, 0, 1, 2, 2], [0, 1, 1, 0, 0]]  # filters 0, 0, 1, 3 and 5
    assert [found["gain_names"][gain] for gain in found["uses"][0][2]] == ["+1", "−1/2", "+1", "−1/2", "+2"]
    assert "3 donors serve 7 uses of 8 filters in 2 row groups: 2.33 filters a donor" in found["summary"]
    assert (found["most"], found["start"]) == (3, [0, 0])


def test_a_layer_is_whole_where_there_is_room():
    (packed,) = reuse_maps({"similar": NetworkPlan("similar", {"large": many(100, 600)}, {"large": 1.0})}, ROOM).maps
    found = unpacked(packed)
    assert (found["part"], found["groups"]) == ("", list(range(100)))
    assert all(by_filter(found, place) == [(x // 2, "+1") for x in range(600)] for place in range(100))


def randomly(groups, filters, name="large"):
    """Each filter has a random one of 16 donors of its row group, with a random gain: little to compress."""
    random = np.random.default_rng(0)
    donors = random.permuted(np.tile(np.arange(filters) % 16, (groups, 1)), axis=1) + 16 * np.arange(groups)[:, None]
    return replace(
        many(groups, filters),
        name=name,
        donors=np.ones((groups * 16, 1), np.int8),
        donor_start=np.arange(groups + 1) * 16,
        use_donor=donors.ravel().astype(np.int32),
        use_exponent=random.integers(-8, 8, groups * filters).astype(np.int8),
    )


def test_a_layer_without_room_is_shown_in_part_and_says_so():
    plan = randomly(200, 64)
    (packed,) = reuse_maps({"m": NetworkPlan("m", {"large": plan}, {"large": 1.0})}, 8000).maps
    found = unpacked(packed)
    shown = len(found["groups"])
    assert 6000 < len(packed.data) <= 8000  # as much as there is room for
    assert 20 < shown < 200
    assert found["part"] == f"{shown} of the layer's 200 row groups, evenly spaced, each with all 64 filters"
    assert found["command"] == "prap-pim report RUN --reuse m large --output reuse.html"
    assert (found["groups"][0], found["groups"][-1]) == (0, 199)
    steps = np.diff(found["groups"])
    assert steps.max() - steps.min() <= 1
    sizes = 2.0 ** plan.use_exponent.reshape(200, 64)
    for place, group in enumerate(found["groups"]):
        row = by_filter(found, place)
        assert [donor for donor, _ in row] == (plan.use_donor.reshape(200, 64)[group] - 16 * group).tolist()
        assert [float(Fraction(gain)) for _, gain in row] == sizes[group].tolist()  # "+1/4"
    assert "3,200 donors serve 12,800 uses of 64 filters in 200 row groups" in found["summary"]  # of the whole layer
    assert sum(int(times.replace(",", "")) for _, times, _ in found["gains"]) == 12_800


def test_maps_keep_within_their_room_and_the_last_method_comes_first():
    layers = {f"layer{i}": randomly(40, 32 * (1 + i % 3), f"layer{i}") for i in range(10)}
    plans = {f"m{i}": NetworkPlan(f"m{i}", layers, dict.fromkeys(layers, 1.0)) for i in range(3)}
    found = reuse_maps(plans, 60_000)
    assert found.left_out == ()
    assert [(each.method, each.layer) for each in found.maps] == [(m, layer) for m in plans for layer in layers]
    sizes = {m: sum(len(each.data) for each in found.maps if each.method == m) for m in plans}
    assert 54_000 < sum(sizes.values()) <= 60_000
    assert 38_000 < sizes["m2"] <= 42_000
    shown = {(each.method, each.layer): len(unpacked(each)["groups"]) for each in found.maps}
    assert min(shown["m2", layer] for layer in layers) > max(shown["m0", layer] for layer in layers)


def test_maps_without_any_room_are_named():
    plans = {"m": NetworkPlan("m", {"a": randomly(20, 64, "a"), "conv": shared_layer("conv")}, {"a": 1.0, "conv": 1.0})}
    found = reuse_maps(plans, 1000)  # the small one takes some 600; one row group of the large one more than is left
    assert [each.layer for each in found.maps] == ["conv"]
    assert found.left_out == (("m", "a"),)
    assert reuse_maps(plans, -5).left_out == (("m", "a"), ("m", "conv"))


def test_maps_that_are_asked_for_are_the_only_ones():
    plans = {"a": shared_plan("a"), "b": shared_plan("b")}
    found = reuse_maps(plans, ROOM, [("b", "fc")])
    assert [(each.method, each.layer) for each in found.maps] == [("b", "fc")]
    for wanted, why in ((("c", "fc"), "no plan of a method 'c'"), (("a", "fd"), "no layer 'fd' .did you mean 'fc'")):
        with pytest.raises(UserError, match=why):
            reuse_maps(plans, ROOM, [wanted])
    name = "a'; rm x"
    (found,) = reuse_maps({name: shared_plan(name)}, ROOM, [(name, "fc")]).maps
    assert shlex.split(unpacked(found)["command"])[4:6] == [name, "fc"]


def test_a_page_with_maps_stays_under_six_megabytes():
    names = [f"layer{i}" for i in range(40)]
    rows = [layer(name, i, 0) for i, name in enumerate(names)]
    plans = {
        f"m{i}": NetworkPlan(f"m{i}", {n: randomly(100, 256, n) for n in names}, dict.fromkeys(names, 1.0))
        for i in range(4)
    }
    page = render(results(methods=[method(0, name=name, layers=rows) for name in plans]), Evidence(plans=plans))
    assert 5_500_000 < len(page.encode()) < 6_000_000


def test_a_plan_that_shares_nothing_has_no_map():
    alone = many(3, 4)
    alone = replace(
        alone,
        donors=np.ones((12, 1), np.int8),
        donor_start=np.arange(4) * 4,
        use_donor=np.arange(12, dtype=np.int32),
    )
    assert reuse_maps({"dense": NetworkPlan("dense", {"large": alone}, {"large": 1.0})}, ROOM).maps == ()
    empty = replace(
        alone,
        donors=np.ones((0, 1), np.int8),
        donor_start=np.zeros(4, np.int64),
        use_start=np.zeros(4, np.int64),
        **{f"use_{key}": getattr(alone, f"use_{key}")[:0] for key in ("filter", "donor", "sign", "exponent")},
    )
    plan = NetworkPlan("m", {"large": empty, "conv": shared_layer("conv")}, {"large": 1.0, "conv": 1.0})
    (packed, _) = reuse_maps({"m": plan}, ROOM).maps
    assert unpacked(packed)["summary"].endswith("nothing is left of this layer")
    assert "No method of this run shares patterns" in render(results())


def saved(plan, place):
    """The file of a plan in a method's folder, which is made."""
    place.resolve().mkdir(parents=True, exist_ok=True)
    plan.save(place.resolve() / "plan.safetensors")
    return place / "plan.safetensors"


def test_plans_and_configuration_come_from_the_run_folder(tmp_path):
    plan = shared_plan()
    folder = RunFolder(tmp_path)
    saved(plan, folder.method("prap"))
    folder.config.write_text("name: </pre><script>alert(1)</script>\n")
    found = results(methods=[method(0), method(1, plan_sha256=plan.digest())])
    evidence = Evidence.read(folder, found)
    assert evidence.plans["prap"].digest() == plan.digest()
    assert evidence.missing == ("dense",)  # no file
    page = render(found, evidence)
    assert "name: &lt;/pre&gt;&lt;script&gt;alert(1)" in page
    folder.config.write_text("x" * 200_001)
    assert Evidence.read(folder, found).config == "x" * 200_000 + "\n# cut here: the rest is in config.yaml"
    packed = re.findall(r'id="reuse-data-\d+">([^<]*)<', page)
    maps = [json.loads(gzip.decompress(base64.b64decode(each, validate=True))) for each in packed]
    assert [each["layer"] for each in maps] == list(plan.layers)


def test_a_plan_of_other_results_is_refused_and_a_missing_one_is_told(tmp_path):
    folder = RunFolder(tmp_path)
    file = saved(shared_plan(), folder.method("prap"))
    with pytest.raises(UserError, match=f"{file} is damaged: it is not the plan of this run's results"):
        Evidence.read(folder, results())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"cannot read {file}: it is not a whole plan"):
        Evidence.read(folder, results())
    file.unlink()
    evidence = Evidence.read(folder, results())
    assert (evidence.plans, evidence.missing, evidence.config) == ({}, ("dense", "prap"), "")
    page = render(results(), evidence)
    assert "The run's folder holds no plan of" in page
    assert "reuse-data-0" not in page


@pytest.mark.parametrize("name", ["../prap", "..", "/etc", "a/b", ""])
def test_a_methods_name_does_not_lead_out_of_the_folder(tmp_path, name):
    plan = shared_plan()
    for place in (tmp_path / "run" / "methods" / name, tmp_path / "run" / "prap"):
        if place.is_relative_to(tmp_path):
            saved(plan, place)
    found = results(methods=[method(0), method(1, name=name, plan_sha256=plan.digest())])
    with pytest.raises(UserError, match="a method cannot be called"):
        Evidence.read(RunFolder(tmp_path / "run"), found)
