"""The page on configuration lists every key with its default: those of the code."""

import re
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from prap_pim.common.texts import parse_yaml
from prap_pim.methods.config import AnyReuse
from prap_pim.methods.prune import PruneConfig
from prap_pim.runs.config import RunConfig
from prap_pim.training.data import AugmentConfig, DataConfig, GivenData, Perturb
from prap_pim.training.models import GivenModel, ModelConfig
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "config.md"
KINDS = {"data": DataConfig, "model": ModelConfig, "prune": PruneConfig, "reuse": AnyReuse, "augment": AugmentConfig}


def _rows(section: str) -> list[dict[str, Any]]:
    """What stands in the first column of a section's table."""
    text = PAGE.read_text().partition(f"\n## `{section}`\n")[2].partition("\n## ")[0]
    return [parse_yaml(each, section) for each in re.findall(r"^\| `(\{.*?\})` \|", text, flags=re.MULTILINE)]


def _check(given: dict[str, Any], settings: type[BaseModel]) -> None:
    assert set(given) == set(settings.model_fields)
    made = settings.model_validate(given)
    chosen = {"name", "kind", "compute_ratio"}  # which settings these are; one of two that must be given
    for name, field in settings.model_fields.items():
        assert field.is_required() or name in chosen or getattr(made, name) == field.default, name


def test_a_whole_configuration() -> None:
    block = next(block for block in blocks(PAGE) if block.language == "yaml")
    given = parse_yaml(block.text, "page")
    least = RunConfig(name=given["name"], methods=[{"name": "dense"}])
    assert given == least.resolved() | {"output": str(least.output)}


@pytest.mark.parametrize("section", KINDS)
def test_every_kind(section: str) -> None:
    rows = _rows(section)
    settings = [type(TypeAdapter(KINDS[section]).validate_python(row)) for row in rows]
    assert settings
    assert set(settings) == set(get_args(get_args(KINDS[section])[0])) - {GivenData, GivenModel}  # a program's alone
    for row, kind in zip(rows, settings, strict=True):
        _check(row, kind)


def test_perturbation() -> None:
    given = re.search(r"^`perturb: (\{.*?\})`", PAGE.read_text(), flags=re.MULTILINE)
    assert given is not None
    _check(parse_yaml(given[1], "perturb"), Perturb)
