"""Which filters share which donors: by hand, and bounded however large the layer is."""

import base64
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from prap_pim.plan import LayerPlan, NetworkPlan
from prap_pim.report.html import Evidence, render
from prap_pim.report.reuse_map import reuse_maps
from prap_pim.run_folder import RunFolder
from tests.report.made_up import method, results, shared_layer, shared_plan


def test_a_map_by_hand():
    (found,) = reuse_maps({"prap": shared_plan(names=("conv",))})
    assert (found.method, found.layer, found.filters, found.groups, found.part) == ("prap", "conv", 8, [0, 1], "")
    gains = [[None if use is None else (use[0], found.gain_names[use[1]]) for use in row] for row in found.uses]
    assert gains[0] == [(0, "+1"), (1, "+1"), None, (0, "−1/2"), None, (0, "+2"), None, None]
    assert gains[1] == [None, None, (0, "+1"), None, (0, "+1/4"), None, None, None]
    assert found.summary == (
        "3 donors serve 6 uses of 8 filters in 2 row groups: 2.00 filters a donor on the average, 3 at most; "
        "33.33 % of the donors serve one filter"
    )
    assert found.gains[0] == ("+1", "3", "50.00 %")
    assert sorted(found.gains[1:]) == [(gain, "1", "16.67 %") for gain in ("+1/4", "+2", "−1/2")]


def many(groups: int, filters: int) -> LayerPlan:
    """In each row group, filters 2 i and 2 i + 1 share a donor."""
    half = filters // 2
    uses = groups * filters
    donor = np.arange(groups)[:, None] * half + np.arange(filters)[None, :] // 2
    return LayerPlan(
        name="large",
        inputs=groups,
        rows=np.arange(groups, dtype=np.int32)[:, None],
        donors=np.ones((groups * half, 1), np.int8),
        donor_start=np.arange(groups + 1) * half,
        use_start=np.arange(groups + 1) * filters,
        use_filter=np.tile(np.arange(filters, dtype=np.int32), groups),
        use_donor=donor.ravel().astype(np.int32),
        use_sign=np.ones(uses, np.int8),
        use_exponent=np.zeros(uses, np.int8),
        step=np.ones(filters, np.float32),
        bias=np.zeros(filters, np.float32),
    )


def test_a_large_layer_is_shown_in_part_and_says_so():
    plan = NetworkPlan("similar", {"large": many(100, 600)}, {"large": 1.0})
    (found,) = reuse_maps({"similar": plan})
    assert found.part == "24 of 100 row groups, evenly spaced and the first 512 of 600 filters"
    assert (found.groups[0], found.groups[-1], len(found.groups), len(found.uses)) == (0, 99, 24, 24)
    assert set(np.diff(found.groups)) == {4, 5}
    assert all(row == [[x // 2, 0] for x in range(512)] for row in found.uses)
    assert "30,000 donors serve 60,000 uses of 600 filters in 100 row groups" in found.summary  # of the whole layer


def test_all_maps_together_stay_small():
    layers = {f"layer{i}": replace(many(40, 512), name=f"layer{i}") for i in range(40)}
    plans = {f"m{i}": NetworkPlan(f"m{i}", layers, dict.fromkeys(layers, 1.0)) for i in range(3)}
    maps = reuse_maps(plans)
    assert len(maps) == 120
    assert sum(len(each.uses) * each.filters for each in maps) <= 600_000
    assert min(len(each.uses) for each in maps) >= 4


def test_a_plan_that_shares_nothing_has_no_map():
    alone = many(3, 4)
    alone = replace(
        alone,
        donors=np.ones((12, 1), np.int8),
        donor_start=np.arange(4) * 4,
        use_donor=np.arange(12, dtype=np.int32),
    )
    assert reuse_maps({"dense": NetworkPlan("dense", {"large": alone}, {"large": 1.0})}) == []
    empty = replace(
        alone,
        donors=np.ones((0, 1), np.int8),
        donor_start=np.zeros(4, np.int64),
        use_start=np.zeros(4, np.int64),
        **{f"use_{key}": getattr(alone, f"use_{key}")[:0] for key in ("filter", "donor", "sign", "exponent")},
    )
    plan = NetworkPlan("m", {"large": empty, "conv": shared_layer("conv")}, {"large": 1.0, "conv": 1.0})
    assert reuse_maps({"m": plan})[0].summary.endswith("nothing is left of this layer")
    assert "No method of this run shares patterns" in render(results())


def test_plans_and_configuration_come_from_the_run_folder(tmp_path):
    plan = shared_plan()
    folder = RunFolder(tmp_path)
    plan.save(folder.method("prap") / "plan.safetensors")
    folder.config.write_text("name: </pre><script>alert(1)</script>\n")
    found = results(methods=[method(0), method(1, plan_sha256=plan.digest())])
    evidence = Evidence.read(folder, found)
    assert evidence.plans["prap"].digest() == plan.digest()
    assert evidence.missing == ("dense",)  # no file
    page = render(found, evidence)
    assert "name: &lt;/pre&gt;&lt;script&gt;alert(1)" in page
    folder.config.write_text("x" * 200_001)
    assert Evidence.read(folder, found).config == "x" * 200_000 + "\n# cut here: the rest is in config.yaml"
    packed = page.split('id="reuse-data">')[1].split("<")[0]
    maps = json.loads(gzip.decompress(base64.b64decode(packed, validate=True)))
    assert [each["layer"] for each in maps] == list(plan.layers)


def test_a_plan_of_other_results_is_not_shown(tmp_path):
    folder = RunFolder(tmp_path)
    shared_plan().save(folder.method("prap") / "plan.safetensors")
    evidence = Evidence.read(folder, results())
    assert (evidence.plans, evidence.missing, evidence.config) == ({}, ("dense", "prap"), "")
    page = render(results(), evidence)
    assert "Not read, for the plan is missing or is not that of these results" in page
    assert 'id="reuse-data"' not in page


@pytest.mark.parametrize("name", ["../prap", "..", "/etc", "a/b", ""])
def test_a_methods_name_does_not_lead_out_of_the_folder(tmp_path, name):
    plan = shared_plan()
    for place in (tmp_path / "run" / "methods" / name, tmp_path / "run" / "prap"):
        if place.is_relative_to(tmp_path):
            plan.save(place / "plan.safetensors")
    found = results(methods=[method(0), method(1, name=name, plan_sha256=plan.digest())])
    assert Evidence.read(RunFolder(tmp_path / "run"), found).plans == {}
