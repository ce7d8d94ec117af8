"""Reuse: which filter computes another one's pattern. One file a method, a config and a handler each."""

from typing import Annotated

from pydantic import Field

from prap_pim.methods.reuse.base import reuse
from prap_pim.methods.reuse.identical import IdenticalReuse
from prap_pim.methods.reuse.none import NoReuse
from prap_pim.methods.reuse.similar import SimilarReuse

ReuseConfig = Annotated[IdenticalReuse | NoReuse | SimilarReuse, Field(discriminator="kind")]

__all__ = ["IdenticalReuse", "NoReuse", "ReuseConfig", "SimilarReuse", "reuse"]
