"""Pretrained networks from packages on PyPI, a module each, with inputs, ground truth and a score.

To add one: a module that defines ``NETWORK`` (``base.Network``), and its name in ``NAMES``. What it needs to have
installed goes into ``constraints.txt`` and the Makefile.
"""

from importlib import import_module
from typing import cast

from real_networks.base import Network

NAMES = (
    "efficientnet_lite0",
    "minilm",
    "onet",
    "crepe",
    "text_direction",
    "text_recogniser",
    "text_detector",
    "magika",
)


def network(name: str) -> Network:
    """The network of a module of this package."""
    return cast(Network, import_module(f"{__name__}.{name}").NETWORK)
