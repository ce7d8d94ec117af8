import json
from pathlib import Path

import pytest

from prap_pim.errors import UserError
from prap_pim.results import Results
from tests.report.made_up import results


def test_saved_and_read_back(tmp_path: Path):
    results().save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": []}, "methods: List should have at least 1 item"),
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"seed": None}, "seed: Input should be a valid integer"),
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
