"""Results made up by hand: two methods, twenty layers, figures whose ratios one can do in the head."""

from dataclasses import replace
from typing import Any

import numpy as np

from prap_pim.ir.plan import LayerPlan, NetworkPlan
from prap_pim.results.run import (
    BudgetResult,
    ChipResult,
    Figure,
    LayerResult,
    MethodResult,
    ParameterResult,
    PointResult,
    Results,
    SimulationResult,
    TimingResult,
)

EVIL = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "\"' & \u2028 &amp; <b>[red]")
LAYERS = (*EVIL, *(f"layer{i}.conv" for i in range(1, 17)), "fc")  # 20


def layer(name: str, index: int, method: int, mismatches: int = 0) -> LayerResult:
    """Layer ``index`` under method 0, or under method 1 with half of everything."""
    share = 2 - method
    return LayerResult(
        name=name,
        kind="linear" if name == "fc" else "conv",
        weight_shape=[10, 64] if name == "fc" else [64, 32, 3, 3],
        positions=1 if name == "fc" else 1024,
        row_groups=36,
        donors=1152 * share,
        uses=2304,
        ou_steps=(index + 1) * 10_000 * share,
        dense_ou_steps=(index + 1) * 20_000,
        crossbars=3,
        serial_latency_s=(index + 1) * 1e-6 * share,
        pipelined_latency_s=(index + 1) * 0.25e-6 * share,
        energy_j=(index + 1) * 0.3e-6 * share,
        checked_outputs=65_536,
        mismatches=mismatches,
        bottleneck="crossbars",
        stored_cells=18_000 * share,
        crossbar_ous=[(100 * share, 2), (100 * share - 1, 1)],  # of 64 cells each
    )


def method(index: int, **changes: Any) -> MethodResult:
    """dense (0) or prap (1), which takes 1/1.64 of dense's time and 1/1.25 of its energy."""
    energy = {"ADC": 71e-6, "input register": 25e-6, "DAC": 2e-6, "crossbar": 2e-6}  # sums to 100 uJ
    values: dict[str, Any] = {
        "name": ("dense", "prap")[index],
        "description": ("Every pattern is stored and computed.", "Pattern pruning, then similarity reuse.")[index],
        "compressed_accuracy": (0.9778, 0.9741)[index],
        "bit_true_accuracy": (0.9759, 0.9722)[index],
        "compute_ratio": (1.0, 0.25)[index],
        "ou_steps": (12_345_678, 3_086_420)[index],
        "stored_cells": (2_195_456, 548_864)[index],
        "crossbars": (134, 134)[index],
        "serial": TimingResult(latency_s=(4.1e-3, 2.5e-3)[index], throughput_per_s=(243.902, 400.0)[index]),
        "pipelined": TimingResult(latency_s=(0.9e-3, 0.6e-3)[index], throughput_per_s=(4000.0, 7000.0)[index]),
        "energy_j": (100e-6, 80e-6)[index],
        "energy_breakdown_j": {key: value * (1.0, 0.8)[index] for key, value in energy.items()},
        "serial_breakdown_s": ({"crossbars": 4e-3, "digital": 0.1e-3}, {"crossbars": 2.3e-3, "digital": 0.2e-3})[index],
        "area_m2": (2.13e-6, 2.13e-6)[index],
        "leakage_w": (None, 0.25)[index],
        "tops_per_w": (0.82, 1.025)[index],
        "index_stored_bytes": (0, 4096)[index],
        "index_read_bytes": (0, 123_000)[index],
        "partial_sum_bytes": 7_000_000,
        "at_budget": BudgetResult(
            budget=140,
            crossbars=(134, 139)[index],
            copies={name: 1 + index for name in LAYERS},
            serial=TimingResult(latency_s=(4.2e-3, 1.4e-3)[index], throughput_per_s=(238.1, 714.3)[index]),
            pipelined=TimingResult(latency_s=(0.9e-3, 0.3e-3)[index], throughput_per_s=(4000.0, 12000.0)[index]),
            energy_j=(100e-6, 81e-6)[index],
            energy_breakdown_j={"ADC": (100e-6, 81e-6)[index]},
            area_m2=(2.13e-6, 2.2e-6)[index],
            leakage_w=(None, 0.3)[index],
            tops_per_w=(0.82, 1.01)[index],
            stored_cells=(2_195_456, 1_097_728)[index],
            index_stored_bytes=(0, 8192)[index],
            index_read_bytes=(0, 123_000)[index],
            partial_sum_bytes=7_000_000,
        ),
        "plan_sha256": ("a", "b")[index] * 64,
        "layers": [layer(name, i, index) for i, name in enumerate(LAYERS)],
    }
    return MethodResult(**(values | changes))


def simulation(**changes: Any) -> SimulationResult:
    """Two methods at sigma 0.2, then 0, as asked for; by hand: 0.8, 0.9, 0.7 have the deviation 0.1."""
    kinds = [
        ("dense", 0.2, [0.8, 0.9, 0.7]),
        ("dense", 0.0, [0.95]),
        ("prap", 0.2, [0.5, 0.5, 0.5]),
        ("prap", 0.0, [0.9]),
    ]
    points = [
        PointResult(
            method=name,
            value=value,
            mean=sum(accuracies) / len(accuracies),
            spread={0.8: 0.1}.get(accuracies[0], 0.0),
            worst=min(accuracies),
            accuracies=accuracies,
            overflows=7 if name == "prap" and value else 0,
            layers_by_cell=3,
        )
        for name, value, accuracies in kinds
    ]
    values: dict[str, Any] = {
        "name": "noisy",
        "command": "prap-pim simulate runs/digits --sweep sigma=0.2,0",
        "versions": {"torch": "2.13.0"},
        "images": 40,
        "devices": 3,
        "seed": 5,
        "parameters": [ParameterResult(name="adc_bits", value="6", source="chip digits-128")],
        "sweep": "sigma",
        "exact_accuracy": {"dense": 0.95, "prap": 0.9},
        "points": points,
    }
    return SimulationResult(**(values | changes))


def results(**changes: Any) -> Results:
    """The whole run."""
    figures = [
        ("ADC", "energy per conversion", 4.28e-12, "J", "ISAAC (ISCA'16), table I: 2 mW * (6+2) / 1.2 GHz / 8"),
        ("ADC", "time per conversion", 6.67e-9, "s", "(6+2) / 1.2 GHz"),
        ("input register", "power", 0.23e-3, "W", "made up"),
        ("crossbar", "area", 25e-12, "m2", "made up <i>source</i>"),
        ("ADC", "resolution", 6.0, "bits", "made up"),
    ]
    values: dict[str, Any] = {
        "schema_version": 1,
        "name": "digits",
        "command": "prap-pim run examples/digits.yaml",
        "seed": 20231126,
        "versions": {"prap-pim": "0.1.0", "torch": "2.13.0"},
        "data": "scikit-learn digits, resized to 32x32",
        "images": {"train": 1257, "calibration": 180, "test": 360},
        "network": "resnet20",
        "parameters": 274_432,
        "weights": "trained here",
        "zero_input_skipping": False,
        "float_accuracy": 0.9796,
        "chip": ChipResult(
            name="digits-128",
            description="128x128 crossbars read in 8x8 operation units, one converter each.",
            geometry={"crossbar_rows": 128, "crossbar_columns": 128, "ou": "8 x 8", "adc_bits": 6},
            figures=[Figure(component=c, quantity=q, value=v, unit=u, source=source) for c, q, v, u, source in figures],
            conventions=["ADC: power / rate", "time <b>made up</b>"],
            warnings=[],
            cells_per_crossbar=16_384,
            ous_per_crossbar=256,
        ),
        "methods": [method(0), method(1)],
    }
    return Results(**(values | changes))


def shared_layer(name: str) -> LayerPlan:
    """Eight filters, two row groups, three donors: for filters 0, 3 and 5; for 1; in the other group for 2 and 4."""
    filters, donors, signs, exponents = zip(
        *((0, 0, 1, 0), (1, 1, 1, 0), (3, 0, -1, -1), (5, 0, 1, 1)), *((2, 2, 1, 0), (4, 2, 1, -2)), strict=True
    )
    return LayerPlan(
        name=name,
        inputs=16,
        rows=np.arange(16, dtype=np.int32).reshape(2, 8),
        donors=np.arange(24, dtype=np.int8).reshape(3, 8),
        donor_start=np.array([0, 2, 3]),
        use_start=np.array([0, 4, 6]),
        use_filter=np.array(filters, np.int32),
        use_donor=np.array(donors, np.int32),
        use_sign=np.array(signs, np.int8),
        use_exponent=np.array(exponents, np.int8),
        step=np.ones(8, np.float32),
        bias=np.zeros(8, np.float32),
    )


def summing_layer(name: str) -> LayerPlan:
    """The same, but filter 0 takes -1/2 times the donor of filter 1 as well."""
    plan = shared_layer(name)
    return replace(
        plan,
        use_start=np.array([0, 5, 7]),
        use_filter=np.insert(plan.use_filter, 1, 0),
        use_donor=np.insert(plan.use_donor, 1, 1),
        use_sign=np.insert(plan.use_sign, 1, -1),
        use_exponent=np.insert(plan.use_exponent, 1, -1),
    )


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


def shared_plan(method: str = "prap", names: tuple[str, ...] = LAYERS) -> NetworkPlan:
    """A plan whose layers all share donors alike."""
    return NetworkPlan(method, {name: shared_layer(name) for name in names}, dict.fromkeys(names, 1.0))
