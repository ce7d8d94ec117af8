"""From the gain by published ratios to that by mappings, one cause after another."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from prap_pim.common.progress import quiet
from prap_pim.methods.published import published
from prap_pim.replay.explained import explain, largest, verdict
from prap_pim.replay.mapped import mapped_inferences
from prap_pim.replay.ratios import Inference, LayerEvents, inference

PRAP, RIVAL = "prap", "structured+identical"
ENDS = [i for i, layer in enumerate(published("prap-2023")["resnet18"].layers) if i == 0 or layer.type == "linear"]


def by_ratios() -> dict[str, Inference]:
    return {method: inference("prap-2023", "resnet18", method) for method in (PRAP, RIVAL)}


def changes(mapped: dict[str, Inference]) -> dict[str, tuple[float, float]]:
    """By cause that changes a gain: the factors, speed and energy."""
    steps = explain("prap-2023", {"resnet18": mapped}, PRAP, RIVAL)
    assert steps[0].gain == by_ratios()[PRAP].gain_over(by_ratios()[RIVAL])
    assert steps[-1].gain == mapped[PRAP].gain_over(mapped[RIVAL])
    found = {}
    for before, after in pairwise(steps):
        change = after.gain.over(before.gain)
        if (change.speedup, change.energy_gain) != pytest.approx((1, 1), abs=1e-12):
            found[after.cause] = (change.speedup, change.energy_gain)
    return found


def test_what_is_alike_explains_nothing() -> None:
    assert changes(by_ratios()) == {}


@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("index", lambda layer: replace(layer, seconds={**layer.seconds, "index buffers": 1e-3})),
        ("index", lambda layer: replace(layer, joules={**layer.joules, "index_buffer": 1e-5})),
        ("partial sums", lambda layer: replace(layer, seconds={**layer.seconds, "accumulators": 1e-3})),
        ("partial sums", lambda layer: replace(layer, joules={**layer.joules, "accumulator": 1e-5})),
        ("inputs", lambda layer: replace(layer, joules={**layer.joules, "input_buffer": 1e-5})),
        ("OU steps: rounding, crossbar borders", lambda layer: replace(layer, joules={"adc": 1e-3})),
        (
            "between tiles, digital work",
            lambda layer: replace(layer, seconds={**layer.seconds, "inter-tile links": 1e-3}, joules=layer.joules),
        ),
    ],
)
def test_a_change_of_one_kind_of_event_is_that_cause(cause: str, change: Callable[[LayerEvents], LayerEvents]) -> None:
    """In a layer between the first one and the classifier, of PRAP alone: all of the difference is the one cause."""
    mapped = by_ratios()
    layers = list(mapped[PRAP].layers)
    layers[5] = change(layers[5])
    mapped[PRAP] = Inference(tuple(layers))
    before = by_ratios()[PRAP].gain_over(by_ratios()[RIVAL])
    after = mapped[PRAP].gain_over(mapped[RIVAL])
    (found,) = changes(mapped).items()
    assert found[0] == cause
    assert found[1] == pytest.approx((after.speedup / before.speedup, after.energy_gain / before.energy_gain))


def test_first_layer_and_classifier_are_a_cause_of_their_own() -> None:
    mapped = by_ratios()
    layers = list(mapped[PRAP].layers)
    for i in ENDS:
        layers[i] = replace(layers[i], seconds={key: 2 * value for key, value in layers[i].seconds.items()})
    mapped[PRAP] = Inference(tuple(layers))
    assert list(changes(mapped)) == ["first layer and classifier"]


def test_patterns_that_are_computed_are_counted_in_the_ratios_first() -> None:
    """Half as many patterns in every layer of the baseline: as if that were its published ratio."""
    fewer = [layer.computed / 2 for layer in by_ratios()[RIVAL].layers]
    mapped = by_ratios() | {RIVAL: inference("prap-2023", "resnet18", RIVAL, fewer)}
    assert list(changes(mapped)) == [f"patterns computed: {RIVAL}"]
    fewer = [layer.computed / 2 for layer in by_ratios()[PRAP].layers]
    mapped = by_ratios() | {PRAP: inference("prap-2023", "resnet18", PRAP, fewer)}
    assert list(changes(mapped)) == [f"patterns computed: {PRAP}"]


def test_of_real_mappings() -> None:
    """Of the patterns that PRAP leaves, as many are computed as its settings say: floor(filters x keep) of a block."""
    mapped = mapped_inferences("prap-2023", ["resnet18"], [PRAP, RIVAL], 0, quiet)
    for layer, found in zip(published("prap-2023")["resnet18"].layers, mapped["resnet18"][PRAP].layers, strict=True):
        assert found.computed == pytest.approx(int(layer.filters * layer.keep["similar"]) / layer.filters, rel=1e-9)
    steps = explain("prap-2023", mapped, PRAP, RIVAL)
    assert largest(steps) == steps[1]
    assert verdict(steps, PRAP)[0] == f"Most of the difference: patterns computed: {PRAP}."
    gain = steps[-1].gain
    assert f"What remains: {gain.speedup:.2f}x in time and {gain.energy_gain:.2f}x in energy" in verdict(steps, PRAP)[1]
    assert "zero after training" in verdict(steps, PRAP)[-1]
    assert "zero after training" not in verdict(steps, RIVAL)[-1]
    assert steps[-1].gain == mapped["resnet18"][PRAP].gain_over(mapped["resnet18"][RIVAL])
