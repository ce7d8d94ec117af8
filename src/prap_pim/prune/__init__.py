"""Pruning: which inputs each filter of a layer keeps. One file a method, a config and a handler each."""

from typing import Annotated

from pydantic import Field

from prap_pim.prune.base import prune
from prap_pim.prune.none import NoPruning
from prap_pim.prune.pattern import PatternPruning

PruneConfig = Annotated[NoPruning | PatternPruning, Field(discriminator="kind")]

__all__ = ["NoPruning", "PatternPruning", "PruneConfig", "prune"]
