"""Random small values for property tests: chips, layer plans, layers that they fit; how many of them."""

from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.network import Layer
from prap_pim.ir.patterns import ReuseMap, plan_weights
from prap_pim.ir.plan import EXPONENT_MAX, EXPONENT_MIN, LayerPlan
from prap_pim.methods.prune import NoPruning, prune


def examples(count: int) -> settings:
    """Decorator for a property test: ``count`` examples, a fifth of them in the quick profile (see conftest.py)."""
    return settings(max_examples=max(1, count * settings.default.max_examples // 100))


@st.composite
def chips(draw: st.DrawFn, ou_rows: int | None = None) -> Chip:
    """A chip with a small crossbar, so that small plans fill several crossbars, PEs and tiles."""
    input_bits = draw(st.sampled_from([1, 4, 8]))
    grain = Grain(
        ou_rows=ou_rows or draw(st.integers(1, 4)),
        ou_columns=draw(st.integers(1, 5)),
        cell_bits=draw(st.integers(1, 2)),
        weight_bits=draw(st.sampled_from([8, 9])),
        input_bits=input_bits,
        dac_bits=min(input_bits, draw(st.sampled_from([1, 2, 4]))),  # steps alike: any of them may be skipped
        encoding=draw(st.sampled_from([None, "offset", "differential"])),
    )
    sampled, sharing = draw(st.booleans()), draw(st.integers(1, 2))
    base = load_chip(draw(st.sampled_from(["prap-2023", "isaac-32nm"])))
    changed = {
        "grain": grain,
        "crossbar_rows": grain.ou_rows * draw(st.integers(1, 2)) + draw(st.integers(0, grain.ou_rows - 1)),
        "crossbar_columns": grain.ou_columns * draw(st.integers(1, 3)) + draw(st.integers(0, grain.ou_columns - 1)),
        "adcs_per_crossbar": draw(st.integers(1, 6)),
        "sample_and_hold": sampled,
        "crossbars_per_adc": sharing if sampled else 1,
        "conversions": draw(st.sampled_from(["per column", "per weight"])) if sampled else "per column",
        "dac_time": draw(st.sampled_from(["1", "bits", "2^bits-1"])),
        "dac_energy": draw(st.sampled_from(["1", "bits", "2^bits-1"])),
        "crossbars_per_pe": draw(st.integers(1, 3)) * sharing,
        "pes_per_tile": draw(st.integers(1, 3)),
        "mesh_columns": draw(st.integers(1, 4)),
        "buffer_port_bits": draw(st.sampled_from([8, 24, 256])),
        "partial_sum_bits": draw(st.sampled_from([8, 20, 32])),
        "accumulate": draw(st.sampled_from(["scatter", "gather"])),
    }
    return Chip.checked({**base.model_dump(), **changed}, "test chip")


@st.composite
def layer_plans(
    draw: st.DrawFn, inputs: int | None = None, filters: int | None = None, height: int = 4, most_bits: int = 8
) -> LayerPlan:
    """Any valid plan: regular or irregular row groups, empty ones, unused rows, any uses, 2..``most_bits`` bits."""
    inputs = inputs or draw(st.integers(1, 12))
    filters = filters or draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["dense", "reuse", "any"]))
    if kind == "any":
        groups = draw(st.integers(0, 6))
        rows = np.full((groups, height), -1, np.int32)
        for group in rows:
            used = random.permutation(inputs)[: random.integers(0, min(height, inputs) + 1)]
            group[random.permutation(height)[: len(used)]] = used
    else:
        groups = -(-inputs // height)
        rows = np.full(groups * height, -1, np.int32)
        rows[:inputs] = np.arange(inputs)
        rows = rows.reshape(groups, height)

    donor_start, use_start = [0], [0]
    use_filter, use_donor, sign, exponent = [], [], [], []
    gains = draw(st.booleans()) and kind != "dense"
    several = draw(st.booleans()) and kind != "dense"  # donors that a filter takes in a row group
    bits = min(most_bits, draw(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 8])))
    for _ in range(groups):
        users = np.arange(filters)
        if kind == "any":
            users = np.flatnonzero(random.random(filters) < random.random())
        donors = len(users)
        if kind != "dense" and donors:
            donors = int(random.integers(1, donors + 1))
        # every donor has a user
        donor = random.permutation(
            np.append(np.arange(donors), random.integers(0, max(donors, 1), len(users) - donors))
        )
        if kind == "dense":
            donor = np.arange(donors)
        takes = donor[:, None] == np.arange(donors)  # [user, donor]
        if several:
            takes |= random.random(takes.shape) < random.random()
        user, donor = np.nonzero(takes)
        use_filter += users[user].tolist()
        use_donor += (donor + donor_start[-1]).tolist()
        sign += (random.choice([-1, 1], len(user)) if gains else np.ones(len(user), int)).tolist()
        low, high = (EXPONENT_MIN, EXPONENT_MAX + 1) if gains else (0, 1)
        exponent += random.integers(low, high, len(user)).tolist()
        donor_start.append(donor_start[-1] + donors)
        use_start.append(use_start[-1] + len(user))
    limit = 2 ** (bits - 1)
    values = random.integers(-limit, limit, (donor_start[-1], height)).astype(np.int8)
    values[rows[np.repeat(np.arange(groups), np.diff(donor_start))] < 0] = 0
    return LayerPlan(
        name="layer",
        inputs=inputs,
        rows=rows,
        donors=values,
        donor_start=np.array(donor_start, np.int64),
        use_start=np.array(use_start, np.int64),
        use_filter=np.array(use_filter, np.int32),
        use_donor=np.array(use_donor, np.int32),
        use_sign=np.array(sign, np.int8),
        use_exponent=np.array(exponent, np.int8),
        step=np.ones(filters, np.float32),
        bias=np.zeros(filters, np.float32),
        weight_bits=bits,
    )


@st.composite
def grouped_plans(draw: st.DrawFn, height: int = 4) -> LayerPlan:
    """Any valid plan of a layer of one or several convolution groups, which may share row groups."""
    groups = draw(st.integers(1, 4))
    if draw(st.booleans()):
        parts = [draw(layer_plans(height=height))]
        parts += [draw(layer_plans(parts[0].inputs, parts[0].filters, height)) for _ in range(groups - 1)]
        return LayerPlan.of_groups("layer", parts)
    filters, fan_in = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    weight = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(groups * filters, fan_in, 1))
    one = np.ones(groups * filters, np.float32)
    shapes = (groups * fan_in, 1), (groups * filters, 1)
    layer = Layer("layer", "conv", weight.astype(np.float32), one, 0 * one, *shapes, (), groups=groups)
    wide = Grain(ou_rows=height, ou_columns=draw(st.sampled_from([8, 16, 64])))
    patterns = prune(NoPruning(), layer, wide)
    return plan_weights("layer", layer.matrix, patterns, ReuseMap.none(patterns)).scaled(one, 0 * one)


def merge_donors(plan: LayerPlan, donors: np.ndarray) -> LayerPlan:
    """The same plan with fewer donors: each of ``donors`` that can is dropped and its uses go to the one before it,
    but for a filter that takes that one already."""
    group = plan.donor_group
    gone = np.zeros(len(plan.donors), bool)
    gone[donors] = True
    gone &= np.isin(np.arange(len(group)), plan.donor_start[:-1], invert=True)  # the first of a group stays
    use_donor = (np.cumsum(~gone) - 1)[plan.use_donor].astype(np.int32)
    kept = np.sort(np.unique(np.stack([plan.use_filter, use_donor]), axis=1, return_index=True)[1])
    return replace(
        plan,
        donors=plan.donors[~gone],
        donor_start=np.append(0, np.cumsum(np.bincount(group[~gone], minlength=plan.groups))).astype(np.int64),
        use_start=np.searchsorted(kept, plan.use_start),
        use_donor=use_donor[kept],
        **{key: getattr(plan, key)[kept] for key in ("use_filter", "use_sign", "use_exponent")},
    )


def layer_for(plan: LayerPlan, kernel: tuple[int, int] = (1, 1), size: tuple[int, int] = (2, 3)) -> Layer:
    """A convolution whose shapes fit ``plan``; weights are zero."""
    each = plan.fan_in // (kernel[0] * kernel[1])
    assert each * kernel[0] * kernel[1] == plan.fan_in
    channels = each * plan.convolution_groups
    height, width = (extent + kernel[axis] - 1 for axis, extent in enumerate(size))
    return Layer(
        name=plan.name,
        kind="conv",
        weight=np.zeros((plan.filters, each, *kernel), np.float32),
        filter_scale=np.ones(plan.filters, np.float32),
        filter_bias=np.zeros(plan.filters, np.float32),
        input_shape=(channels, height, width),
        output_shape=(plan.filters, *size),
        sources=("input",),
        groups=plan.convolution_groups,
    )
