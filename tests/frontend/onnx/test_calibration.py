"""Calibration inputs must be what the model takes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx import OnnxFile, read_batches
from tests.frontend.onnx.models import CASES, Case, fixed_batch, node, random, save, sizes, tied


def batches(case: Case, folder: Path, **arrays: Any) -> list[tuple[torch.Tensor, ...]]:
    np.savez(folder / "data.npz", **arrays)
    return read_batches(OnnxFile.read(save(case, folder)), folder / "data.npz")


def test_batches_of_64(tmp_path: Path) -> None:
    x, mask = random(150, 6, 5), random(150, 1, 6, 6) > 0
    found = batches(sizes(), tmp_path, mask=mask, x=x)
    assert [len(batch[0]) for batch in found] == [64, 64, 22]
    np.testing.assert_array_equal(torch.cat([batch[0] for batch in found]).numpy(), x)
    np.testing.assert_array_equal(torch.cat([batch[1] for batch in found]).numpy(), mask)


def test_batches_of_what_the_model_takes(tmp_path: Path) -> None:
    assert [len(batch[0]) for batch in batches(fixed_batch(), tmp_path, x=random(9, 2, 4, 4))] == [3, 3, 3]
    with pytest.raises(UserError, match="it holds 10 inputs, but the model takes 3 at a time"):
        batches(fixed_batch(), tmp_path, x=random(10, 2, 4, 4))


def test_one_input_needs_no_name_and_takes_wider_numbers(tmp_path: Path) -> None:
    x = random(4, 5, dtype="f8")
    (batch,) = batches(CASES["gemms"](), tmp_path, whatever=x)
    assert batch[0].dtype == torch.float32
    (batch,) = batches(tied(), tmp_path, whatever=np.ones((3, 6), np.uint8))
    assert batch[0].dtype == torch.int64


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": random(4, 6, 5)}, "no array for the model's input 'mask'"),
        ({"x": random(4, 6, 5), "mask": random(4, 1, 6, 6) > 0, "z": random(4)}, "the model has no input 'z'"),
        ({"x": random(4, 6, 5), "mask": random(3, 1, 6, 6) > 0}, "hold 4, 3 inputs"),
        ({"x": random(4, 6, 5), "mask": random(4, 1, 6, 6)}, "array mask holds float32, the model takes bool"),
        ({"x": np.ones((4, 6, 5), np.int64), "mask": random(4, 1, 6, 6) > 0}, "holds int64, the model takes float32"),
        ({"x": random(4, 6, 4), "mask": random(4, 1, 6, 6) > 0}, r"\[4, 6, 4\], the model takes \[N, 6, 5\]"),
        ({"x": random(4, 30), "mask": random(4, 1, 6, 6) > 0}, r"\[4, 30\], the model takes \[N, 6, 5\]"),
        ({"x": random(0, 6, 5), "mask": random(0, 1, 6, 6) > 0}, "it holds 0 inputs"),
        ({"x": np.full((4, 6, 5), np.nan), "mask": random(4, 1, 6, 6) > 0}, "NaN or infinity"),
        ({"x": np.full((4, 6, 5), 1e300), "mask": random(4, 1, 6, 6) > 0}, "NaN or infinity"),
        ({"x": np.array(["a"] * 4), "mask": random(4, 1, 6, 6) > 0}, "the model takes float32"),
        ({"x": np.array([{}] * 4), "mask": random(4, 1, 6, 6) > 0}, "none is unpickled"),
    ],
)
def test_what_does_not_fit(arrays: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        batches(sizes(), tmp_path, **arrays)


def test_numbers_must_fit_their_type(tmp_path: Path) -> None:
    case = Case(
        [node("Cast", "x", "f", to=1), node("MatMul", "f w", "y")],
        {"w": random(5, 2)},
        {"x": np.zeros((4, 5), np.uint8)},
    )
    with pytest.raises(UserError, match="numbers that are no uint8"):
        batches(case, tmp_path, x=np.full((4, 5), -1))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    file, path = OnnxFile.read(save(tied(), tmp_path)), tmp_path / "data.npz"
    np.savez_compressed(path, ids=np.zeros((40, 6), int))
    whole = path.read_bytes()
    contents = [whole[:length] for length in range(0, len(whole), 17)]
    contents += [b"", b"PK", b"\x80\x04N.", bytes(whole[:60]) + b"x" * 40 + whole[100:]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot read"):
            read_batches(file, path)
    np.save(path.with_suffix(".npy"), np.zeros((4, 6), int))
    with pytest.raises(UserError, match="no npz file"):
        read_batches(file, path.with_suffix(".npy"))
    for missing in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_batches(file, missing)
