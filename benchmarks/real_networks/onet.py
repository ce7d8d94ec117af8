"""MTCNN's O-Net: whether a picture is a face, where in it, and where its eyes, nose and mouth are."""

import numpy as np
import torch
from torch import Tensor, nn

from real_networks.base import Answers, Array, Data, Network, Scores, package_folder, share

_SIDE = 48
_FACES = 100  # of the 200 pictures of the subset, the first


class ONet(nn.Module):
    """As facenet-pytorch has it; that class comes with the rest of MTCNN, which needs torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box, landmarks, and probabilities of no face and a face."""
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu5(self.dense5(x))
        return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(1)


def _load() -> nn.Module:
    model = ONet()
    model.load_state_dict(torch.load(package_folder("facenet_pytorch") / "data" / "onet.pt", weights_only=True))
    return model.eval()


def _data(calibration: int, test: int, seed: int) -> Data:
    grey = torch.from_numpy(np.load(package_folder("skimage") / "data" / "lfw_subset.npy").astype(np.float32))
    pictures = nn.functional.interpolate(grey[:, None].repeat(1, 3, 1, 1), (_SIDE, _SIDE), mode="bilinear")
    pictures = (pictures * 255 - 127.5) / 128  # [N, 3, side, side]
    order = np.random.default_rng(seed).permutation(len(pictures))
    seen, unseen = order[: calibration // 2], order[calibration // 2 :][: test // 2]
    given = [torch.cat([pictures[chosen], pictures[chosen].flip(-1)]).numpy() for chosen in (seen, unseen)]
    return Data({"x": given[0]}, {"x": given[1]}, np.tile(unseen < _FACES, 2))


def _score(answers: Answers, reference: Answers, truth: Array) -> Scores:
    face = answers[-1][:, 1]
    yes, no = face[truth][:, None], face[~truth]
    return {
        "accuracy": share((face > 0.5) == truth),
        "area under the ROC curve": share(yes > no) + share(yes == no) / 2,
        "landmarks off float's": share(np.abs(answers[1] - reference[1])[truth]),
    }


NETWORK = Network(
    name="MTCNN O-Net",
    task="detects faces in 48x48 pictures, with landmarks",
    packages=("facenet-pytorch", "scikit-image"),
    licence="MIT",
    data_from="scikit-image's subset of Labeled Faces in the Wild, 100 faces and 100 other pictures, each also "
    "mirrored: 40 to calibrate with, 160 to test on.",
    scored="Accuracy: face or not, at a probability of 0.5. Landmarks off float's: mean distance, in widths of the "
    "picture.",
    load=_load,
    data=_data,
    score=_score,
    calibration=80,
    test=320,
)
