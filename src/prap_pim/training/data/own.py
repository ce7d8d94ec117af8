"""Data of the user's own, by a function of theirs."""

from collections.abc import Mapping
from typing import Literal

from prap_pim.common.errors import UserError
from prap_pim.common.imports import Import
from prap_pim.common.settings import Settings, nearest
from prap_pim.training.data.splits import Splits, load

_PARTS = ("train", "calibration", "test")


class ImportedData(Import):
    """A function that gives a dictionary: ``calibration`` as ``prap_pim.compress`` takes it, ``train``, batches as the
    loss takes them, and ``test``, whatever the metric takes."""

    name: Literal["import"] = "import"


class GivenData(Settings):
    """Data that a program gave, which no configuration can read again."""

    name: Literal["given"] = "given"


@load.register
def _(config: ImportedData, seed: int) -> Splits:
    what = f"data: import {config.function}"
    found = config.load("data")()
    if not isinstance(found, Mapping):
        raise UserError(f"{what} gave {type(found).__name__}, not a dictionary of {', '.join(_PARTS)}")
    for key in found:
        if key not in _PARTS:
            raise UserError(f"{what} gave a part {key!r} ({nearest(str(key), _PARTS)})")
    if "calibration" not in found:
        raise UserError(f"{what} gave no calibration: inputs as the model takes them, without which nothing is done")
    return Splits(
        f"{config.function} (the user's own)", None, found.get("train"), found["calibration"], found.get("test")
    )
