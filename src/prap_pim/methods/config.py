"""What a method is: how to prune and whose patterns to reuse, for every layer of a network."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from prap_pim.common.errors import UserError
from prap_pim.common.settings import Settings, nearest
from prap_pim.ir.network import Network
from prap_pim.methods.calibrate.config import Budgeted, CalibratedReuse, LowBits
from prap_pim.methods.prune import NoPruning, PruneConfig
from prap_pim.methods.reuse import IdenticalReuse, NoReuse, ReuseConfig, SimilarReuse

AnyReuse = Annotated[IdenticalReuse | NoReuse | SimilarReuse | CalibratedReuse | LowBits, Field(discriminator="kind")]


class LayerRule(Settings):
    """Other settings for some layers of a method; the first rule that matches a layer's name counts."""

    layers: str  # a name, or a pattern with * and ?
    prune: PruneConfig = NoPruning()
    reuse: ReuseConfig = NoReuse()


class MethodConfig(Settings):
    """A method: how to prune, whose patterns to reuse, and whether to fine-tune afterwards."""

    name: str
    description: str = ""
    prune: PruneConfig = NoPruning()
    reuse: AnyReuse = NoReuse()
    exceptions: tuple[LayerRule, ...] = ()
    finetune: bool = True

    @field_validator("name")
    @classmethod
    def _of_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", name):
            raise ValueError("must be 1 to 64 letters, digits and _.+-, the first a letter or digit")
        return name

    @model_validator(mode="after")
    def _calibrated_alone(self) -> Self:
        if isinstance(self.reuse, Budgeted):
            if self.prune != NoPruning():
                raise ValueError(f"{self.reuse.title} {self.reuse.prunes}: leave prune out")
            if any((rule.prune, rule.reuse) != (NoPruning(), NoReuse()) for rule in self.exceptions):
                raise ValueError(f"{self.reuse.title} has one budget: an exception can only leave layers whole")
        return self

    def layer_settings(self, network: Network) -> dict[str, tuple[PruneConfig, AnyReuse]]:
        """The pruning and reuse of every layer, by name.

        Raises:
            UserError: an exception matches no layer (a misspelt name would otherwise be ignored silently).
        """
        names = [layer.name for layer in network.layers]
        for rule in self.exceptions:
            if not any(fnmatchcase(name, rule.layers) for name in names):
                raise UserError(
                    f"method {self.name}: exceptions name {rule.layers!r}, which matches no layer "
                    f"({nearest(rule.layers, names)})"
                )
        return {name: self._setting(name) for name in names}

    def _setting(self, name: str) -> tuple[PruneConfig, AnyReuse]:
        for rule in self.exceptions:
            if fnmatchcase(name, rule.layers):
                return rule.prune, rule.reuse
        return self.prune, self.reuse
