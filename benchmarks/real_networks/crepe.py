"""CREPE "tiny": the pitch of a voice or an instrument, from 64 ms of sound."""

import numpy as np
import torch
from torch import Tensor, nn

from real_networks.base import Answers, Array, Data, Network, Scores, package_folder, share

_RATE = 16_000  # samples a second
_FRAME = 1024  # samples
_LOWEST, _BIN = 1997.3794084376191, 20.0  # cents above 10 Hz: of the first bin, and from bin to bin
_CLOSE = 50.0  # cents: half a semitone


class Crepe(nn.Module):
    """As torchcrepe has it; that package imports librosa and torchaudio."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 128, 16, 16, 16, 32, 64)
        for i in range(6):
            kernel, stride = ((512, 1), (4, 1)) if i == 0 else ((64, 1), (1, 1))
            self.add_module(f"conv{i + 1}", nn.Conv2d(channels[i], channels[i + 1], kernel, stride))
            self.add_module(f"conv{i + 1}_BN", nn.BatchNorm2d(channels[i + 1], eps=0.001))
        self.classifier = nn.Linear(256, 360)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [N, samples]; how likely each of 360 pitches is."""
        x = x[:, None, :, None]
        for i in range(1, 7):
            x = nn.functional.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{i}_BN")(self.get_submodule(f"conv{i}")(x).relu())
            x = nn.functional.max_pool2d(x, (2, 1))
        likely: Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1)).sigmoid()
        return likely


def _load() -> nn.Module:
    model = Crepe()
    model.load_state_dict(torch.load(package_folder("torchcrepe") / "assets" / "tiny.pth", weights_only=True))
    return model.eval()


def _sounds(count: int, seed: int) -> tuple[Array, Array]:
    """Frames of sung vowels and plucked strings with vibrato and noise, normalised; pitches in cents above 10 Hz."""
    rng = np.random.default_rng(seed)
    time = np.arange(_FRAME) / _RATE
    frames, cents = np.empty((count, _FRAME), np.float32), np.empty(count)
    for i in range(count):
        pitch = 70.0 * 2 ** rng.uniform(0, 3.5)  # Hz: 70 to 790
        depth, speed, start = rng.uniform(0, 0.005), rng.uniform(4, 7), rng.uniform(0, 2 * np.pi)
        angle = 2 * np.pi * speed * time + start
        phase = 2 * np.pi * pitch * (time - depth * np.cos(angle) / (2 * np.pi * speed))
        harmonic = np.arange(1, int(0.45 * _RATE / pitch) + 1)
        if i % 2:  # a voice: the glottis falls off with the square, three formants lift
            formants = np.array([rng.uniform(250, 850), rng.uniform(850, 2400), rng.uniform(2400, 3200)])
            away = (harmonic[:, None] * pitch - formants) / np.array([80.0, 120.0, 180.0])
            size = (1 / (1 + away**2)).sum(1) / harmonic
        else:  # a string: higher harmonics are weaker
            size = np.exp(-harmonic * rng.uniform(0.05, 0.8)) * np.abs(np.sin(np.pi * harmonic * rng.uniform(0.1, 0.5)))
        turn = rng.uniform(0, 2 * np.pi, len(harmonic))
        sound = (size[:, None] * np.sin(harmonic[:, None] * phase + turn[:, None])).sum(0)
        sound = sound / sound.std() + rng.normal(size=_FRAME) * rng.uniform(0, 0.3)
        frames[i] = (sound - sound.mean()) / sound.std()
        middle = pitch * (1 + depth * np.sin(angle[_FRAME // 2]))
        cents[i] = 1200 * np.log2(middle / 10)
    return frames, cents


def _data(calibration: int, test: int, seed: int) -> Data:
    frames, cents = _sounds(test, 2 * seed + 1)
    return Data({"x": _sounds(calibration, 2 * seed)[0]}, {"x": frames}, cents)


def _cents(probability: Array) -> Array:
    """The mean pitch of the likeliest bin and four on each side, as CREPE's authors read it."""
    bins = np.arange(probability.shape[1])
    near = np.abs(bins - probability.argmax(1)[:, None]) <= 4
    weight = probability * near
    found: Array = _LOWEST + _BIN * (weight * bins).sum(1) / weight.sum(1)
    return found


def _score(answers: Answers, reference: Answers, truth: Array) -> Scores:
    found = _cents(answers[0].astype(np.float64))
    away = np.abs(found - truth)
    return {
        "pitch right": share(away < _CLOSE),
        "median error in cents": float(np.median(away)),
        "same pitch as float": share(np.abs(found - _cents(reference[0].astype(np.float64))) < _CLOSE),
    }


NETWORK = Network(
    name="CREPE tiny",
    task="estimates the pitch of sound",
    packages=("torchcrepe",),
    licence="MIT",
    data_from="Synthesised sung vowels and plucked strings of 70 to 790 Hz, with vibrato and noise, 64 ms each: the "
    "pitch is known.",
    scored="Pitch right: within half a semitone, in the middle of the frame. Same pitch as float: likewise.",
    load=_load,
    data=_data,
    score=_score,
    calibration=64,
    test=1000,
    batch=100,
)
