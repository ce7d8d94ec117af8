"""Pruning: which inputs each filter of a layer keeps. One file a method, a config and a handler each."""

from typing import Annotated

from pydantic import Field

from prap_pim.methods.prune.base import prune
from prap_pim.methods.prune.none import NoPruning, dense_weights
from prap_pim.methods.prune.orc import OrcPruning
from prap_pim.methods.prune.pattern import PatternPruning
from prap_pim.methods.prune.structured import StructuredPruning

PruneConfig = Annotated[NoPruning | OrcPruning | PatternPruning | StructuredPruning, Field(discriminator="kind")]

__all__ = ["NoPruning", "OrcPruning", "PatternPruning", "PruneConfig", "StructuredPruning", "dense_weights", "prune"]
