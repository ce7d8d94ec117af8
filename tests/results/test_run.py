import json
from pathlib import Path

import pytest

from prap_pim.common.errors import UserError
from prap_pim.results.run import Results
from tests.report.made_up import results, simulation


def test_saved_and_read_back(tmp_path: Path):
    results().save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results()


def test_results_written_before_there_were_simulations_are_read(tmp_path: Path):
    old = results().model_dump()
    del old["simulations"]
    for method in old["methods"]:
        del method["checked_images"]
        for layer in method["layers"]:
            del layer["overflows"]
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert Results.load(tmp_path / "results.json") == results()


def test_a_simulation_takes_the_place_of_one_of_its_name():
    both = results().with_simulation(simulation()).with_simulation(simulation(name="b"))
    again = both.with_simulation(simulation(seed=9))
    assert [(each.name, each.seed) for each in again.simulations] == [("b", 5), ("noisy", 9)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": []}, "methods: must not be empty"),
        ({"schema_version": 2}, "schema_version: must be 1"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"seed": None}, "seed: must be a whole number"),
        ({"simulations": [simulation().model_dump()] * 2}, "two simulations have one name"),
        ({"methods": [results().methods[0].model_dump()] * 2}, "two methods have one name"),
    ],
)
def test_broken_results_are_refused_in_one_line(tmp_path: Path, change: dict[str, object], message: str):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results().model_dump() | change))
    with pytest.raises(UserError, match="cannot read") as caught:
        Results.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
