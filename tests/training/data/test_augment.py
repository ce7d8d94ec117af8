"""Crop and flip against a slow version that pads and cuts image by image."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from prap_pim.training.data import AffineAugment, AugmentConfig, CropFlipAugment, augment


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cuts(image: np.ndarray, padding: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every image that may come out, with its offset and whether it is mirrored."""
    channels, height, width = image.shape
    padded = np.empty((channels, height + 2 * padding, width + 2 * padding), np.float32)
    padded[:] = image.min(axis=(1, 2), keepdims=True)
    padded[:, padding : padding + height, padding : padding + width] = image
    found = {}
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            cut = padded[:, down : down + height, right : right + width]
            found[np.ascontiguousarray(cut).tobytes()] = (down, right, False)
            if flip:
                found[np.ascontiguousarray(cut[:, :, ::-1]).tobytes()] = (down, right, True)
    return found


@pytest.mark.parametrize("flip", [False, True])
def test_every_result_is_a_cut_and_all_cuts_are_equally_likely(flip: bool) -> None:
    image = torch.randint(-20, 20, (3, 6, 5), generator=_generator()).float()
    many = image.expand(4000, -1, -1, -1)
    allowed = _cuts(image.numpy(), 1, flip)
    assert len(allowed) == 9 * (1 + flip)
    result = augment(CropFlipAugment(padding=1, flip=flip), many, _generator(1))
    assert result.shape == many.shape
    places = [allowed[cut.contiguous().numpy().tobytes()] for cut in result]
    counts = [places.count(place) for place in allowed.values()]
    share = 4000 / len(allowed)
    assert max(abs(count - share) for count in counts) < 5 * share**0.5  # five standard deviations


def test_images_keep_their_places_and_the_generator_decides() -> None:
    images = torch.randn(50, 3, 8, 8, generator=_generator())
    config = CropFlipAugment(padding=2)
    before = torch.get_rng_state()
    first, again, other = (augment(config, images, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for image, result in zip(images, first, strict=True):
        assert result.contiguous().numpy().tobytes() in _cuts(image.numpy(), 2, True)


def test_no_padding_and_no_flip_change_nothing() -> None:
    images = torch.randn(5, 3, 8, 8, generator=_generator())
    result = augment(CropFlipAugment(padding=0, flip=False), images, _generator())
    assert torch.equal(result, images)


def test_settings_without_a_kind_are_affine() -> None:
    adapter: TypeAdapter[AugmentConfig] = TypeAdapter(AugmentConfig)
    assert adapter.validate_python({"rotation": 3}) == AffineAugment(rotation=3)
    assert adapter.validate_python({"kind": "crop-flip", "padding": 2}) == CropFlipAugment(padding=2)


def test_an_unknown_config() -> None:
    with pytest.raises(TypeError, match="no augmentation for int"):
        augment(3, torch.zeros(1, 1, 2, 2), _generator())
