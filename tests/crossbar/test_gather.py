"""Partial sums that a chip gathers, walked as docs/cost.md says, against the bit-true model and the integer product."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.crossbar import CrossbarModel, integer_matmul
from prap_pim.crossbar.array import LayerCrossbars
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.grain import Grain
from prap_pim.ir.plan import LayerPlan
from tests.reference.crossbar import fit
from tests.reference.machine import crossbars_of
from tests.strategies import chips, examples, layer_plans


def gathered(
    plan: LayerPlan, inputs: np.ndarray, chip: Chip, bits: int | None = None, overflow: str = "wrap"
) -> list[list[int]]:
    """Accumulators [position][filter]: every PE adds up what its crossbars have for one filter after another."""
    placed = crossbars_of(plan, chip, "spread")
    holder = {donor: at for at, ous in enumerate(placed) for _, columns in ous for donor in columns}  # of its last OU
    result = []
    for position in inputs.tolist():
        driven = [[position[row] if row >= 0 else 0 for row in rows] for rows in plan.rows.tolist()]
        group_of = np.repeat(np.arange(plan.groups), np.diff(plan.donor_start))
        registers = [
            sum(w * x for w, x in zip(donor, driven[group], strict=True))
            for donor, group in zip(plan.donors.tolist(), group_of, strict=True)
        ]
        totals = [0] * plan.filters
        for pe in range(-(-len(placed) // chip.crossbars_per_pe)):
            for filter_ in range(plan.filters):
                accumulator = 0
                for at in range(pe * chip.crossbars_per_pe, (pe + 1) * chip.crossbars_per_pe):
                    for use in range(plan.uses):
                        donor = int(plan.use_donor[use])
                        if plan.use_filter[use] == filter_ and holder[donor] == at:
                            shift = int(plan.use_exponent[use]) + plan.fraction_bits
                            added = int(plan.use_sign[use]) * registers[donor] * 2**shift
                            accumulator, _ = fit(accumulator + added, bits, overflow)
                totals[filter_], _ = fit(totals[filter_] + accumulator, bits, overflow)
        result.append(totals)
    return result


def some_inputs(data: st.DataObject, plan: LayerPlan) -> np.ndarray:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    return random.integers(-128, 128, (data.draw(st.sampled_from([2, 33])), plan.inputs)).astype(np.int8)


@examples(40)
@given(chip=chips(ou_rows=4), plan=layer_plans(), data=st.data())
def test_sums_are_those_of_the_integer_product(chip: Chip, plan: LayerPlan, data: st.DataObject) -> None:
    inputs = some_inputs(data, plan)
    assert gathered(plan, inputs, chip) == integer_matmul(plan, inputs).tolist()


@examples(40)
@given(chip=chips(ou_rows=4), plan=layer_plans(), data=st.data(), bits=st.integers(4, 20), one_crossbar=st.booleans())
def test_narrow_accumulators_overflow_as_in_the_bit_true_model(
    chip: Chip, plan: LayerPlan, data: st.DataObject, bits: int, one_crossbar: bool
) -> None:
    """Wrapped sums have no order. Saturated ones do: row groups in ascending order, as they are on one crossbar."""
    if one_crossbar:
        chip = chip.model_copy(update={"crossbar_rows": 400, "crossbar_columns": 100 * chip.grain.ou_columns})
    overflow = "saturate" if one_crossbar else "wrap"
    inputs = some_inputs(data, plan)
    model = CrossbarModel(grain=Grain(ou_rows=4), adc_bits=4, accumulator_bits=bits, overflow=overflow)
    assert gathered(plan, inputs, chip, bits, overflow) == LayerCrossbars(plan, model).matmul(inputs).tolist()


def test_the_bit_true_model_of_a_chip_does_not_ask_how_it_accumulates() -> None:
    chip = load_chip("isaac-32nm")
    assert CrossbarModel.of(chip) == CrossbarModel.of(chip.model_copy(update={"accumulate": "gather"}))
