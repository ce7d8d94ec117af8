"""Splits are disjoint, stratified and repeatable; users' arrays are checked; augmentation is what its numbers say."""

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.training.data import AffineAugment, ArraysConfig, DigitsConfig, Examples, augment, load, stratified_order
from prap_pim.training.data.splits import cut
from tests.strategies import examples


def test_digits_are_scaled_resized_normalised_and_split() -> None:
    splits = load(DigitsConfig(), 3)
    assert splits.classes == 10
    assert [len(splits.train), len(splits.calibration), len(splits.test)] == [1077, 320, 400]  # 1797 in all
    assert splits.train.inputs.shape == (1077, 1, 32, 32)
    assert splits.train.inputs.dtype == torch.float32
    assert splits.train.labels.dtype == torch.int64
    assert abs(float(splits.train.inputs.mean())) < 1e-4
    assert abs(float(splits.train.inputs.std()) - 1) < 1e-4
    counts = [part.labels.bincount() for part in (splits.train, splits.calibration, splits.test)]
    for count in counts:  # every class has its share of every part
        share = sum(counts) * (count.sum() / 1797)
        assert float((count - share).abs().max()) < 2
    # 0..1 before normalising: black and white are 1 / deviation apart, and every digit touches both
    assert 1 / float(splits.test.inputs.max() - splits.test.inputs.min()) == pytest.approx(0.37, abs=0.05)


def test_images_are_normalised_by_the_exact_mean_and_deviation_of_the_training_part(tmp_path: Path) -> None:
    """math.fsum rounds once. A channel that is constant stays so; it takes several blocks."""
    images = np.random.default_rng(0).standard_normal((640, 3, 32, 32), dtype=np.float32) * 5 + 100
    images[:, 1] = np.float32(0.1)
    labels = np.arange(640) % 2
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    config = ArraysConfig(path=tmp_path / "mine.npz", calibration=20, test=20)
    splits = load(config, 0)
    training, _, test = cut("", torch.from_numpy(labels), config, 0)
    for channel in range(3):
        values = images[training.numpy(), channel].ravel().astype(float).tolist()
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        scale = np.float32(deviation) if deviation > 0 else np.float32(1)
        expected = (images[test.numpy(), channel] - np.float32(mean)) / scale
        np.testing.assert_array_equal(splits.test.inputs[:, channel].numpy(), expected)
    assert not splits.train.inputs[:, 1].any()


DIGEST = """
from hashlib import sha256
import torch
from prap_pim.training.data import DigitsConfig, load
from prap_pim.training.data.perturb import Perturb
total = sha256()
for perturb in (None, Perturb()):
    splits = load(DigitsConfig(size=16, perturb=perturb), 0)
    for part in (splits.train, splits.calibration, splits.test):
        total.update(part.inputs.contiguous().numpy().tobytes() + part.labels.numpy().tobytes())
print(torch.get_num_threads(), total.hexdigest())
"""


@pytest.mark.flow
def test_data_do_not_depend_on_threads(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor on the process."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    two = subprocess.check_output([sys.executable, "-c", DIGEST], env=environment, text=True).split()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exec(DIGEST, {})
    finally:
        torch.set_num_threads(before)
    one = capsys.readouterr().out.split()
    assert (one[0], two[0]) == ("1", "2")
    assert one[1] == two[1]


def test_parts_are_disjoint_and_together_the_whole() -> None:
    from sklearn.datasets import load_digits

    splits = load(DigitsConfig(size=8), 0)
    parts = [part.inputs for part in (splits.train, splits.calibration, splits.test)]
    seen = np.concatenate([part.numpy().reshape(len(part), -1) for part in parts])
    raw = load_digits().data
    scale = (raw.max() - raw.min()) / (seen.max() - seen.min())
    recovered = np.rint((seen - seen.min()) * scale).astype(int)  # normalising undone: grey values 0..16
    assert Counter(map(tuple, recovered)) == Counter(map(tuple, raw.astype(int)))


def test_the_seed_decides_the_split() -> None:
    first, again, other = (load(DigitsConfig(size=8), seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.test.labels, again.test.labels)
    assert not torch.equal(first.test.inputs, other.test.inputs)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=300),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 5),
)
@examples(60)
def test_every_stretch_holds_each_class_in_its_share(labels: list[int], cut: tuple[float, float], seed: int) -> None:
    array = np.array(labels, np.int64)
    order = stratified_order(array, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    low, high = sorted(int(part * len(labels)) for part in cut)
    part = array[order][low:high]
    for label in range(5):
        # Each end of a stretch cuts a class at most half an image off its share, and is itself off by half an image of
        # each of the classes, of which this class takes its share.
        part_of_all = (array == label).mean()
        excess = (part == label).sum() - (high - low) * part_of_all
        assert abs(excess) <= 1 + len(np.unique(array)) * part_of_all + 1e-9


def test_a_smaller_training_part_leaves_the_test_part_alone() -> None:
    small, whole = load(DigitsConfig(size=8, train=50), 0), load(DigitsConfig(size=8), 0)
    assert len(small.train) == 50
    assert torch.equal(small.test.labels, whole.test.labels)


@pytest.mark.parametrize("sizes", [{"test": 1797}, {"calibration": 1000, "test": 797}, {"train": 1078}])
def test_too_few_images_are_a_mistake_of_the_user(sizes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="1797 images are too few"):
        load(DigitsConfig(size=8, **sizes), 0)


def test_users_arrays(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (30, 3, 6, 5), dtype=np.uint8)
    labels = np.arange(30) % 3
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    splits = load(ArraysConfig(path=tmp_path / "mine.npz", calibration=6, test=9), 0)
    assert splits.classes == 3
    assert splits.train.inputs.shape == (15, 3, 6, 5)
    assert splits.test.labels.bincount().tolist() == [3, 3, 3]
    mean = splits.train.inputs.mean(dim=(0, 2, 3))
    assert torch.allclose(mean, torch.zeros(3), atol=1e-6)

    np.savez(tmp_path / "grey.npz", images=images[:, 0] / 1.0, labels=labels)
    assert load(ArraysConfig(path=tmp_path / "grey.npz", calibration=6, test=9), 0).test.inputs.shape == (9, 1, 6, 5)


GOOD = {"images": np.zeros((4, 2, 2), np.float32), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": None}, "no array called 'labels'"),
        ({"images": None}, "no array called 'images'"),
        ({"images": np.zeros((0, 2, 2))}, "not empty"),
        ({"images": np.zeros((4, 2))}, r"must be \[N, C, H, W\]"),
        ({"images": np.array([["a"] * 2] * 4)[:, :, None]}, "must be numbers"),
        ({"images": np.full((4, 2, 2), np.nan)}, "NaN"),
        ({"images": np.full((4, 2, 2), None)}, "plain arrays"),  # an object array would need unpickling
        ({"labels": np.array([0, 1, 0])}, "labels must be integers"),
        ({"labels": np.array([0.0, 1.0, 0.0, 1.0])}, "labels must be integers"),
        ({"labels": np.array([0, 2, 0, 2])}, r"0 \.\. classes - 1"),
        ({"labels": np.array([-1, 0, 1, 0])}, r"0 \.\. classes - 1"),
        ({"labels": np.zeros(4, int)}, "two classes"),
    ],
)
def test_wrong_arrays_are_a_mistake_of_the_user(
    tmp_path: Path, change: dict[str, np.ndarray | None], complaint: str
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(UserError, match=complaint) as caught:
        load(ArraysConfig(path=path, calibration=1, test=1), 0)
    assert "\n" not in str(caught.value)
    assert "mine.npz" in str(caught.value)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load(ArraysConfig(path=tmp_path / "none.npz"), 0)
    np.savez(tmp_path / "whole.npz", **GOOD)
    whole = (tmp_path / "whole.npz").read_bytes()
    middle = len(whole) // 3
    np.save(tmp_path / "single.npy", GOOD["images"])
    contents = [b"", b"text", whole[:middle], whole[:100] + b"\xff" * 60 + whole[160:]]
    contents.append((tmp_path / "single.npy").read_bytes())
    for content in contents:
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*bad\.npz"):
            load(ArraysConfig(path=tmp_path / "bad.npz", calibration=1, test=1), 0)


def test_examples_check_themselves() -> None:
    with pytest.raises(UserError, match="not empty"):
        Examples(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UserError, match=r"labels must be int64 \[2\]"):
        Examples(torch.zeros(2, 1, 2, 2), torch.zeros(3, dtype=torch.int64))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


STILL = AffineAugment(rotation=0, shift=0, scale=0, noise=0)


def test_augmentation_depends_on_the_generator_alone() -> None:
    images = torch.randn(5, 2, 9, 7, generator=_generator())
    before = torch.get_rng_state()
    first, again, other = (augment(AffineAugment(), images, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_no_augmentation_changes_nothing() -> None:
    images = torch.randn(3, 2, 9, 7, generator=_generator())
    assert torch.allclose(augment(STILL, images, _generator()), images, atol=1e-5)


def test_noise_has_the_given_deviation() -> None:
    noise = augment(STILL.model_copy(update={"noise": 0.5}), torch.zeros(100, 1, 20, 20), _generator())
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)


def test_a_shift_moves_the_image_and_fills_with_black() -> None:
    images = torch.full((200, 1, 20, 20), -3.0)
    images[:, :, 9:11, 9:11] = 1.0
    moved = augment(STILL.model_copy(update={"shift": 0.25}), images, _generator())
    assert float(moved.min()) == pytest.approx(-3.0)
    rows = torch.arange(20.0)
    weight = moved[:, 0] + 3
    centre = (weight.sum(2) * rows).sum(1) / weight.sum((1, 2)) - 9.5  # in pixels; 0.25 of 20 is 5
    assert float(centre.max()) == pytest.approx(5, abs=0.4)
    assert float(centre.min()) == pytest.approx(-5, abs=0.4)


@pytest.mark.parametrize(("height", "width"), [(21, 21), (31, 21)])
def test_a_rotation_keeps_lengths_and_turns_by_at_most_the_angle(height: int, width: int) -> None:
    images = torch.zeros(300, 1, height, width)
    images[:, :, height // 2, width // 2 + 8] = 1.0  # 8 pixels right of the centre
    turned = augment(STILL.model_copy(update={"rotation": 90}), images, _generator())[:, 0]
    down = (turned.sum(2) * (torch.arange(height) - height // 2)).sum(1) / turned.sum((1, 2))
    right = (turned.sum(1) * (torch.arange(width) - width // 2)).sum(1) / turned.sum((1, 2))
    assert torch.allclose(torch.hypot(right, down), torch.tensor(8.0), atol=0.3)
    angles = torch.rad2deg(torch.atan2(down, right))
    assert float(angles.abs().max()) == pytest.approx(90, abs=4)
    assert float(angles.min()) < -80
    assert float(angles.max()) > 80


def test_a_header_that_claims_more_than_memory(tmp_path: Path) -> None:
    import zipfile

    header = str({"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 1 << 6, 1 << 6)}).ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("images.npy", array)
        archive.writestr("labels.npy", array)
    with pytest.raises(UserError, match=r"cannot read .*huge\.npz"):
        load(ArraysConfig(path=tmp_path / "huge.npz"), 0)
