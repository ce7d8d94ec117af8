"""Pictures in folders, data sets on disk, text: read one by one, as NumPy and PIL alone would read them."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from prap_pim.api.anything import as_arrays
from prap_pim.common.errors import UserError
from prap_pim.common.files import write_json
from prap_pim.training.data import DataConfig, DatasetsConfig, ImagesConfig, Splits, Streamed, TextConfig, load

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(number: int, size: tuple[int, int] = (20, 12)) -> Image.Image:
    """Of one colour, by which its number is known."""
    return Image.new("RGB", size, (number, 2 * number, 255 - number))


def colours(inputs: torch.Tensor) -> list[int]:
    """The numbers of the pictures that inputs [N, 3, H, W] were made of."""
    means = inputs.double().mean((2, 3)).numpy() * DEVIATION + MEAN
    assert np.allclose(means[:, 1], 2 * means[:, 0], atol=1e-5)
    return [round(255 * red) for red in means[:, 0]]


def folders(root: Path, parts: dict[str, int], classes: int = 3) -> Path:
    number = 0
    for part, count in parts.items():
        for i in range(count):
            place = root / part / f"class {i % classes}"
            place.mkdir(parents=True, exist_ok=True)
            picture(number).save(place / f"{number}.png")
            number += 1
    return root


def everything(splits: Splits) -> list[tuple[int, int]]:
    """Number and label of every picture."""
    parts = (splits.train, splits.calibration, splits.test)
    pairs = [part.take(torch.arange(len(part))) for part in parts]
    return [pair for inputs, labels in pairs for pair in zip(colours(inputs), labels.tolist(), strict=True)]


def test_one_folder_is_split(tmp_path: Path) -> None:
    splits = load(ImagesConfig(folder=folders(tmp_path, {"": 60}), size=8, calibration=9, test=6), 0)
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (45, 9, 6)
    assert splits.classes == 3
    assert sorted(everything(splits)) == [(number, number % 3) for number in range(60)]  # each once, none mixed up
    for part in (splits.calibration, splits.test):
        _, labels = part.take(torch.arange(len(part)))
        assert labels.bincount().tolist() == [len(part) // 3] * 3
    assert isinstance(splits.train, Streamed)
    again = load(ImagesConfig(folder=tmp_path, size=8, calibration=9, test=6), 0)
    assert everything(again) == everything(splits)
    assert [*again.train.content] == [*splits.train.content]
    other = load(ImagesConfig(folder=tmp_path, size=8, calibration=9, test=6), 1)
    assert everything(other) != everything(splits)


@pytest.mark.parametrize("held", ["val", "valid", "validation", "test"])
def test_a_part_to_test_with_is_taken(held: str, tmp_path: Path) -> None:
    splits = load(ImagesConfig(folder=folders(tmp_path, {"train": 30, held: 12}), size=8, calibration=6), 0)
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (24, 6, 12)
    numbers = colours(splits.test.take(torch.arange(12))[0])
    assert sorted(numbers) == list(range(30, 42))


def test_names_of_pictures_need_be_no_text(tmp_path: Path) -> None:
    folder = folders(tmp_path / "pictures", {"": 60})
    plain = everything(load(ImagesConfig(folder=folder, size=8, calibration=9, test=6), 0))
    (folder / "class 2").rename(folder / os.fsdecode(b"class \xff"))
    assert everything(load(ImagesConfig(folder=folder, size=8, calibration=9, test=6), 0)) == plain


def test_pictures_are_scaled_and_cut(tmp_path: Path) -> None:
    """The left half of a wide picture is black, the right half white; the middle square has half of each."""
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 32:] = 255
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.fromarray(wide).save(tmp_path / name / f"{i}.png")
    config = ImagesConfig(folder=tmp_path, size=14, resize=16, calibration=2, test=2)
    image = load(config, 0).train.read(0)[0].double() * DEVIATION[:, None, None] + MEAN[:, None, None]
    assert image.shape == (3, 14, 14)
    assert image[:, :, :7].abs().max() < 1e-6
    assert (image[:, :, 7:] - 1).abs().max() < 1e-6
    grey = load(config.model_copy(update={"grey": True, "mean": (0, 0, 0), "deviation": (1, 1, 1)}), 0).train.read(0)[0]
    assert grey.shape == (1, 14, 14)
    assert grey.unique().tolist() == [0, 1]


def test_text_is_cut_into_windows(tmp_path: Path) -> None:
    """All windows one after another are the text; what is told is the next byte."""
    text = bytes(range(200)) * 5
    (tmp_path / "a.txt").write_bytes(text[:700])
    (tmp_path / "b.txt").write_bytes(text[700:])
    config = TextConfig(files=(tmp_path / "a.txt", tmp_path / "b.txt"), length=10, held_out=0.2)
    splits = load(config, 0)
    with (tmp_path / "a.txt").open("rb+") as file:
        file.write(bytes(700))  # in place: what was read does not change
    parts = [splits.train, splits.calibration, splits.test]
    assert [len(part) for part in parts] == [98 - 2 * 19, 19, 19]  # 69 and 29 windows
    inputs, labels = (torch.cat(x) for x in zip(*(part.take(torch.arange(len(part))) for part in parts), strict=True))
    assert bytes(inputs[:69].flatten().tolist()) == text[:690]
    assert bytes(labels[:69].flatten().tolist()) == text[1:691]
    assert bytes(inputs[69:].flatten().tolist()) == text[700:990]
    assert splits.classes == 256


def saved(path: Path, columns: dict[str, Any], batches: int = 2) -> Path:
    """As ``datasets`` of Hugging Face 5.2 saves it."""
    path.mkdir(parents=True)
    table = pa.table(columns)
    with pa.ipc.new_stream(str(path / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=-(-len(table) // batches))
    write_json(path / "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "f"})
    return path


def rows(tmp_path: Path, first: int, count: int) -> dict[str, Any]:
    def png(number: int) -> dict[str, Any]:
        picture(number).save(tmp_path / "one.png")
        return {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}

    numbers = range(first, first + count)
    return {"image": [png(number) for number in numbers], "label": [number % 3 for number in numbers]}


def test_a_data_set_of_pictures(tmp_path: Path) -> None:
    alone = load(DatasetsConfig(path=saved(tmp_path / "one", rows(tmp_path, 0, 40)), size=8, calibration=9, test=6), 0)
    assert (len(alone.train), len(alone.calibration), len(alone.test)) == (25, 9, 6)
    assert sorted(everything(alone)) == [(number, number % 3) for number in range(40)]
    for part, first in (("train", 0), ("test", 30)):
        saved(tmp_path / "two" / part, rows(tmp_path, first, 30 if part == "train" else 9))
    write_json(tmp_path / "two/dataset_dict.json", {"splits": ["train", "test"]})
    both = load(DatasetsConfig(path=tmp_path / "two", size=8, calibration=6), 0)
    assert sorted(colours(both.test.take(torch.arange(9))[0])) == list(range(30, 39))


@pytest.mark.parametrize(
    ("there", "given", "sizes", "warned"),
    [
        (30, {}, (12, 12, 6), True),  # a fifth is tested with; half of the rest
        (30, {"train": 1, "test": 1}, (1, 28, 1), True),
        (100, {"train": 5, "test": 6}, (5, 89, 6), False),
        (9, {"calibration": 2, "test": 1}, (6, 2, 1), False),  # as it is said
    ],
)
def test_few_pictures_calibrate_as_far_as_they_go(
    there: int,
    given: dict[str, int],
    sizes: tuple[int, ...],
    warned: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pictures = ImagesConfig(folder=folders(tmp_path / "few", {"": there}), size=8, **given)
    rows_ = DatasetsConfig(path=saved(tmp_path / "set", rows(tmp_path, 0, there)), size=8, **given)
    for config in (pictures, *([rows_] if given.get("test") else [])):
        caplog.clear()
        splits = load(config, 0)
        assert (len(splits.train), len(splits.calibration), len(splits.test)) == sizes
        assert [f"leaves {sizes[1]} pictures to calibrate with; 64 or more" in x for x in caplog.messages] == [
            True
        ] * warned


def test_a_data_set_of_text(tmp_path: Path) -> None:
    path = saved(tmp_path / "text", {"text": ["abcdefghij"] * 40})
    splits = load(DatasetsConfig(path=path, input="text", length=11), 0)
    assert bytes(splits.train.read(1)[0].tolist()) == b"abcdefghij\n"
    assert splits.test.are_tokens


def test_other_processes_can_read_them(tmp_path: Path) -> None:
    """What is sent to them reads the same there."""
    (tmp_path / "a.txt").write_bytes(bytes(range(200)) * 9)
    configs: list[Any] = [
        ImagesConfig(folder=folders(tmp_path / "pictures", {"": 30}), size=8, calibration=6, test=6),
        DatasetsConfig(path=saved(tmp_path / "set", rows(tmp_path, 0, 30)), size=8, calibration=6, test=6),
        TextConfig(files=(tmp_path / "a.txt",), length=10),
    ]
    for config in configs:
        test = load(config, 0).test
        for one, other in zip(test.read(3), pickle.loads(pickle.dumps(test)).read(3), strict=True):
            assert torch.equal(one, other)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "images", "folder": "nowhere"}, "there is no folder nowhere"),
    ({"name": "images", "folder": "empty"}, "must have a folder of pictures for each of two classes or more"),
    ({"name": "images", "folder": "few", "calibration": 9}, "too few for 9 to calibrate and 1 to train"),
    (
        {"name": "images", "folder": "few", "train": 6},
        "few has 5 pictures .* too few for 1 to calibrate and 6 to train",
    ),
    ({"name": "images", "folder": "odd"}, "class 'class 2' is not in both val and train"),
    ({"name": "images", "folder": "broken", "size": 8, "calibration": 1, "test": 1}, "cannot read broken/"),
    ({"name": "text", "files": ["nowhere.txt"]}, "cannot read nowhere.txt"),
    ({"name": "text", "files": ["empty.txt"]}, "cannot read empty.txt: it is empty"),
    ({"name": "text", "files": ["short.txt"]}, "0 windows of 128 tokens are too few, 11 are needed"),
    ({"name": "text", "files": ["short.txt"], "tokenizer": "empty"}, "cannot read a tokenizer in empty"),
    ({"name": "datasets", "path": "empty"}, "is not a folder of save_to_disk"),
    ({"name": "datasets", "path": "set", "input": "img"}, "has no column 'img' .did you mean 'image'"),
    ({"name": "datasets", "path": "set", "label": "image"}, "column 'image' must hold whole numbers"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message for _, message in WRONG])
def test_mistakes(given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import TypeAdapter

    monkeypatch.chdir(tmp_path)
    for name in ("empty", "broken/a", "broken/b"):
        Path(name).mkdir(parents=True)
    folders(Path("few"), {"": 6})
    folders(Path("odd/train"), {"": 6})
    folders(Path("odd/val"), {"": 6}, classes=2)
    for i in range(6):
        Path(f"broken/{'ab'[i % 2]}/{i}.png").write_bytes(b"no picture")
    Path("empty.txt").write_bytes(b"")
    Path("short.txt").write_bytes(b"short")
    saved(Path("set"), rows(tmp_path, 0, 20))
    with pytest.raises(UserError, match=message) as error:
        load(TypeAdapter(DataConfig).validate_python(given), 0)
    assert "\n" not in str(error.value)


def test_all_pictures_of_a_folder_calibrate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the order of their paths, in folders of classes or not, as an ONNX model's file of inputs has them."""
    (tmp_path / "of a class").mkdir()
    for number, name in ((20, "b.png"), (90, "a.png"), (7, "of a class/c.png")):
        picture(number).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    inputs = np.load(as_arrays(str(tmp_path), None, str(tmp_path)))["input"]
    assert inputs.shape == (3, 3, 224, 224)
    assert colours(torch.from_numpy(inputs)) == [90, 20, 7]
    assert any("leaves 3 pictures to calibrate with; 64 or more" in x for x in caplog.messages)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"there are no pictures in .*train"):
        as_arrays(str(tmp_path), None, str(tmp_path))
