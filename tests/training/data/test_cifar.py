"""CIFAR from a folder: tiny files of the published format, read back pixel by pixel, and ways to be wrong."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from prap_pim.common.errors import UserError
from prap_pim.training.data import CifarConfig, load

RECORD = {"cifar10": 1 + 3072, "cifar100": 2 + 3072}
FILES = {
    "cifar10": ([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 10),
    "cifar100": (["train.bin"], "test.bin", 100),
}


def _write(name: str, folder: Path, train: int = 20, test: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Files of ``train`` records each and a test file; returns training images [N, 3, 32, 32] and their labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    train_files, test_file, classes = FILES[name]
    images, labels = [], []
    for file, count in [(file, train) for file in train_files] + [(test_file, test)]:
        label = np.arange(count) % classes
        image = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        content = b""
        for i in range(count):  # as the data set's page describes a record: label(s), red, green, blue, row by row
            coarse = bytes([label[i] // 5]) if name == "cifar100" else b""
            content += coarse + bytes([label[i]]) + image[i].tobytes()
        assert len(content) == count * RECORD[name]
        (folder / file).write_bytes(content)
        if file != test_file:
            images.append(image)
            labels.append(label)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_image_comes_back_with_its_label(name: str, tmp_path: Path) -> None:
    images, labels = _write(name, tmp_path, train=100, test=40)
    splits = load(CifarConfig(name=name, folder=tmp_path, calibration=30), 0)
    assert splits.classes == FILES[name][2]
    assert [len(splits.train), len(splits.calibration), len(splits.test)] == [len(images) - 30, 30, 40]
    # undo the normalisation: /255, then mean and deviation of the training part
    seen = torch.cat([splits.train.inputs, splits.calibration.inputs])
    seen_labels = torch.cat([splits.train.labels, splits.calibration.labels]).numpy()
    low, high = seen.amin(dim=(0, 2, 3), keepdim=True), seen.amax(dim=(0, 2, 3), keepdim=True)
    grey = ((seen - low) / (high - low) * 255).round().byte().numpy()  # each channel has a 0 and a 255
    expected = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert {image.tobytes(): label for image, label in zip(grey, seen_labels, strict=True)} == expected
    assert splits.train.inputs.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (splits.train.inputs.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-4


def test_parts_are_stratified_and_follow_the_seed(tmp_path: Path) -> None:
    _write("cifar10", tmp_path, train=40, test=40)
    config = CifarConfig(name="cifar10", folder=tmp_path, train=50, calibration=20, test=30)
    first, again, other = (load(config, seed) for seed in (0, 0, 1))
    assert first.train.labels.bincount().tolist() == [5] * 10
    assert first.calibration.labels.bincount().tolist() == [2] * 10
    assert first.test.labels.bincount().tolist() == [3] * 10
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_the_archives_own_folder_may_be_inside(tmp_path: Path) -> None:
    _write("cifar10", tmp_path / "data" / "cifar-10-batches-bin")
    load(CifarConfig(name="cifar10", folder=tmp_path / "data", calibration=10), 0)


@pytest.mark.parametrize("sizes", [{"train": 91}, {"calibration": 100}, {"test": 21}])
def test_too_few_images(sizes: dict[str, int], tmp_path: Path) -> None:
    _write("cifar10", tmp_path)
    with pytest.raises(UserError, match="100 training and 20 test images are too few"):
        load(CifarConfig(name="cifar10", folder=tmp_path, **({"calibration": 10} | sizes)), 0)


def _complaint(folder: Path, name: Any = "cifar10") -> str:
    with pytest.raises(UserError) as caught:
        load(CifarConfig(name=name, folder=folder, calibration=10), 0)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    assert "there is no folder" in _complaint(tmp_path / "none")
    assert "cifar-10-binary.tar.gz" in _complaint(tmp_path / "none")
    assert "expected data_batch_1.bin" in _complaint(tmp_path)
    (tmp_path / "cifar-100-binary.tar.gz").touch()
    assert "still packed" in _complaint(tmp_path, "cifar100")
    (tmp_path / "train").touch()  # the Python version's files have no suffix
    assert "pickled" in _complaint(tmp_path, "cifar100")
    assert "cifar-100-binary.tar.gz" in _complaint(tmp_path, "cifar100")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").touch()
    assert "pickled" in _complaint(tmp_path)


def test_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    _write("cifar10", tmp_path)
    path = tmp_path / "data_batch_3.bin"
    whole = path.read_bytes()
    for content, complaint in (
        (whole[:-1], "not a whole number"),
        (b"", "not a whole number"),
        (whole[: -RECORD["cifar10"]], "cut off"),
        (b"\x0a" + whole[1:], "a label is 10"),
    ):
        path.write_bytes(content)
        assert complaint in _complaint(tmp_path)
        assert "data_batch_3.bin" in _complaint(tmp_path)
    path.unlink()
    assert "No such file" in _complaint(tmp_path)


def test_a_coarse_label_is_not_the_label(tmp_path: Path) -> None:
    _write("cifar100", tmp_path, train=200)
    splits = load(CifarConfig(name="cifar100", folder=tmp_path, calibration=100), 0)
    assert splits.train.labels.bincount().tolist() == [1] * 100


def test_parquet_is_read(tmp_path: Path) -> None:
    (tmp_path / "plain_text").mkdir()
    paths = [tmp_path / "plain_text" / f"{part}-00000-of-00001.parquet" for part in ("train", "test")]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(60) % 10
    cells = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    table = pyarrow.table({"img": cells, "label": labels}, metadata={"huggingface": json.dumps({})})
    for path in paths:
        parquet.write_table(table, path)
    splits = load(CifarConfig(name="cifar10", folder=tmp_path, calibration=10), 0)
    parts = [splits.train.inputs, splits.calibration.inputs]
    seen = torch.cat(parts)
    low, high = seen.amin(dim=(0, 2, 3), keepdim=True), seen.amax(dim=(0, 2, 3), keepdim=True)
    grey = ((seen - low) / (high - low) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    seen_labels = torch.cat([splits.train.labels, splits.calibration.labels]).numpy()
    assert {image.tobytes(): label for image, label in zip(grey, seen_labels, strict=True)} == expected

    for changed, complaint in (
        (table.drop_columns("label"), "has columns img and label"),
        (table.slice(0, 0), "at least one"),
        (table.set_column(1, "label", [labels + 1]), "a label is 10"),
        (table.set_column(0, "img", [[{"bytes": b"no picture"}] * 60]), "not a parquet file of CIFAR-10 images"),
        (table.set_column(0, "img", [[{"bytes": None}] * 60]), "not a parquet file of CIFAR-10 images"),
        (table.set_column(0, "img", [[{"bytes": cells[0]["bytes"][:300]}] * 60]), "train-00000"),
    ):
        parquet.write_table(changed, paths[0])
        assert complaint in _complaint(tmp_path)
    paths[0].write_bytes(b"PAR1")
    assert "not a parquet file" in _complaint(tmp_path)
