"""The data: pairs (noisy image, clean image)."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset


def splits(noise: float = 0.3, images: int = 600) -> dict[str, DataLoader]:
    """Loaders to train, to calibrate and to test with; the last two have 1/6 each."""
    clean = torch.from_numpy(load_digits().images[:images]).float()[:, None] / 16
    generator = torch.Generator().manual_seed(0)
    noisy = clean + noise * torch.randn(clean.shape, generator=generator)
    every, part = TensorDataset(noisy, clean), images // 6

    def loader(first: int, end: int, shuffle: bool = False) -> DataLoader:
        return DataLoader(Subset(every, range(first, end)), 50, shuffle)

    return {
        "train": loader(2 * part, images, shuffle=True),
        "calibration": loader(0, part),
        "test": loader(part, 2 * part),
    }
