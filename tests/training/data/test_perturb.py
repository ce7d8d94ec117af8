"""Perturbed digits: every image by its own generator, each amount as its number says, all three parts."""

import numpy as np
import pytest
import torch

from prap_pim.common.errors import UserError
from prap_pim.training.data import DigitsConfig, Perturb, load
from prap_pim.training.data.perturb import perturb

STILL = Perturb(rotation=0, shear=0, scale=0, shift=0, occlusion=0, noise=0)


def _only(**amount: float) -> Perturb:
    return STILL.model_copy(update=amount)


def _numbers(count: int) -> np.ndarray:
    return np.arange(count)


def _moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the light of each image [N, 1, S, S]: mean x and y in pixels from the centre, and sums of light and x * y."""
    light = images[:, 0]
    place = torch.arange(light.shape[-1]) - (light.shape[-1] - 1) / 2
    total = light.sum((1, 2))
    return (
        (light.sum(1) * place).sum(1) / total,
        (light.sum(2) * place).sum(1) / total,
        total,
        (light * place[:, None] * place[None, :]).sum((1, 2)),
    )


def test_nothing_is_changed_by_amounts_of_zero() -> None:
    images = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(perturb(STILL, images, _numbers(4), 0), images, atol=1e-5)


def test_an_image_is_perturbed_by_its_number_alone() -> None:
    images = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    whole = perturb(Perturb(), images, _numbers(6), 3)
    part = perturb(Perturb(), images[[4, 1]], np.array([4, 1]), 3)
    assert torch.equal(part, whole[[4, 1]])
    assert not torch.equal(perturb(Perturb(), images, _numbers(6), 4), whole)
    assert not torch.equal(perturb(Perturb(), images, _numbers(6), 3, copy=1), whole)
    same = images[:1].expand(6, -1, -1, -1)
    assert len(torch.unique(perturb(_only(shift=0.3), same, _numbers(6), 3), dim=0)) == 6


def test_noise_has_the_given_deviation() -> None:
    noise = perturb(_only(noise=0.3), torch.zeros(100, 1, 20, 20), _numbers(100), 0)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)


def test_a_shift_is_at_most_its_share_of_the_side() -> None:
    images = torch.zeros(300, 1, 20, 20)
    images[:, :, 9:11, 9:11] = 1
    right, down, _, _ = _moments(perturb(_only(shift=0.25), images, _numbers(300), 0))
    for moved in (right, down):
        assert float(moved.max()) == pytest.approx(5, abs=0.2)  # pixels: 0.25 of 20
        assert float(moved.min()) == pytest.approx(-5, abs=0.2)


def test_a_shift_comes_last() -> None:
    images = torch.zeros(300, 1, 40, 40)
    images[:, :, 18:22, 18:22] = 1
    right, down, _, _ = _moments(perturb(_only(rotation=45, shear=40, shift=0.25), images, _numbers(300), 0))
    assert float(torch.maximum(right.abs(), down.abs()).max()) <= 10.1  # pixels along the axes, however it is turned


def test_a_rotation_turns_by_at_most_the_angle() -> None:
    images = torch.zeros(300, 1, 21, 21)
    images[:, :, 10, 18] = 1  # 8 pixels right of the centre
    right, down, _, _ = _moments(perturb(_only(rotation=30), images, _numbers(300), 0))
    assert torch.allclose(torch.hypot(right, down), torch.tensor(8.0), atol=0.3)
    angles = torch.rad2deg(torch.atan2(down, right))
    assert float(angles.max()) == pytest.approx(30, abs=2)
    assert float(angles.min()) == pytest.approx(-30, abs=2)


def test_a_scale_changes_the_area_by_its_square() -> None:
    images = torch.zeros(300, 1, 40, 40)
    images[:, :, 12:28, 12:28] = 1
    _, _, light, _ = _moments(perturb(_only(scale=0.2), images, _numbers(300), 0))
    assert float(light.max()) == pytest.approx(256 * 1.2**2, rel=0.02)
    assert float(light.min()) == pytest.approx(256 * 0.8**2, rel=0.02)


def test_a_shear_leans_upright_lines_and_keeps_level_ones() -> None:
    images = torch.zeros(300, 1, 41, 41)
    images[:, :, 8:33, 20] = 1  # 25 pixels tall
    leaning = perturb(_only(shear=30), images, _numbers(300), 0)
    *_, product = _moments(leaning)
    slope = product / sum(y * y for y in range(-12, 13))  # of the line x = slope * y
    assert float(slope.max()) == pytest.approx(np.tan(np.deg2rad(30)), rel=0.05)
    assert float(slope.min()) == pytest.approx(-np.tan(np.deg2rad(30)), rel=0.05)
    level = images.transpose(2, 3).contiguous()
    assert torch.allclose(perturb(_only(shear=30), level, _numbers(300), 0), level, atol=1e-4)


def test_one_rectangle_is_erased() -> None:
    images = torch.ones(300, 1, 40, 40)
    gone = perturb(_only(occlusion=0.5), images, _numbers(300), 0)[:, 0] < 0.5
    heights, widths = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(heights * widths, gone.sum((1, 2)))  # it is a rectangle
    for sides in (heights, widths):  # a quarter to half of 40 pixels
        assert int(sides.min()) in (10, 11)
        assert int(sides.max()) in (19, 20)
    assert bool(gone.any(1).any(0).all())  # every column and row is reached
    assert bool(gone.any(2).any(0).all())


def test_all_parts_are_perturbed_and_training_images_as_often_as_asked() -> None:
    sizes = {"size": 8, "train": 50, "calibration": 20, "test": 30}
    plain = load(DigitsConfig(**sizes), 1)
    splits = load(DigitsConfig(**sizes, perturb=Perturb(copies=3)), 1)
    assert torch.equal(splits.train.labels, plain.train.labels.repeat(3))
    assert torch.equal(splits.calibration.labels, plain.calibration.labels)
    assert torch.equal(splits.test.labels, plain.test.labels)
    assert abs(float(splits.train.inputs.mean())) < 1e-5
    first, second, _ = splits.train.inputs.split(50)
    assert not torch.allclose(first, second)
    single = load(DigitsConfig(**sizes, perturb=Perturb()), 1)  # the same images but for the normalisation
    for part in ("calibration", "test"):
        few, many, clean = (getattr(given, part).inputs.flatten() for given in (single, splits, plain))
        assert np.corrcoef(few, many)[0, 1] == pytest.approx(1)
        assert np.corrcoef(few, clean)[0, 1] < 0.95


def test_weak_amounts_give_nearly_the_plain_digits() -> None:
    sizes = {"size": 16, "train": 50, "calibration": 20, "test": 30}
    plain, same = load(DigitsConfig(**sizes), 1), load(DigitsConfig(**sizes, perturb=STILL), 1)
    for part in ("train", "calibration", "test"):
        assert torch.allclose(getattr(plain, part).inputs, getattr(same, part).inputs, atol=1e-4)
    assert same.description.endswith("perturbed")


@pytest.mark.parametrize("wrong", [{"rotation": -1}, {"shear": 90}, {"scale": 1}, {"shift": 0.6}, {"occlusion": 1.1}])
def test_amounts_beyond_reason_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Perturb(**wrong)
