"""Inputs and labels: where they come from, how they are split, and how training images are varied.

A source is one file with a config and a handler of ``load``; one is chosen by its ``name`` in the configuration.
To add one: its import here, and its place in ``DataConfig``.
"""

from typing import Annotated

from pydantic import Field

from prap_pim.common.imports import named_by_key
from prap_pim.training.data.arrays import ArraysConfig
from prap_pim.training.data.augment import AffineAugment, AugmentConfig, CropFlipAugment, augment
from prap_pim.training.data.cifar import CifarConfig
from prap_pim.training.data.datasets import DatasetsConfig
from prap_pim.training.data.digits import DigitsConfig
from prap_pim.training.data.images import ImagesConfig
from prap_pim.training.data.own import GivenData, ImportedData
from prap_pim.training.data.perturb import Perturb
from prap_pim.training.data.source_text import SourceTextConfig
from prap_pim.training.data.splits import Examples, Splits, Streamed, load, stratified_order
from prap_pim.training.data.text import TextConfig

DataConfig = Annotated[
    DigitsConfig
    | ArraysConfig
    | CifarConfig
    | SourceTextConfig
    | ImagesConfig
    | DatasetsConfig
    | TextConfig
    | ImportedData
    | GivenData,
    Field(discriminator="name"),
    named_by_key,
]

__all__ = [
    "AffineAugment",
    "ArraysConfig",
    "AugmentConfig",
    "CifarConfig",
    "CropFlipAugment",
    "DataConfig",
    "DatasetsConfig",
    "DigitsConfig",
    "Examples",
    "GivenData",
    "ImagesConfig",
    "ImportedData",
    "Perturb",
    "SourceTextConfig",
    "Splits",
    "Streamed",
    "TextConfig",
    "augment",
    "load",
    "stratified_order",
]
