"""A transformer as it is served: what a prompt and what every further token cost."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prap_pim.api.model import Compression, of_phases
from prap_pim.cost import CostReport, Phase, check_counts
from prap_pim.frontend import Inputs
from prap_pim.hardware.chip import Chip
from prap_pim.ir.plan import NetworkPlan


@dataclass(frozen=True)
class ServingReport:
    """What it takes to answer prompts.

    Attributes:
        prompt: tokens of a prompt.
        generated: tokens of an answer; the first one comes of the prompt.
        batch: prompts that are answered together.
        prefill: costs of one prompt.
        decode: costs of a token half-way through the answer; they grow with the context by the same amount each token.
    """

    prompt: int
    generated: int
    batch: int
    prefill: CostReport
    decode: CostReport

    def __repr__(self) -> str:
        return (
            f"ServingReport({self.prefill.network} on {self.prefill.chip.name}: first token after "
            f"{self.time_to_first_token_s:.4g} s, {self.tokens_per_s:.4g} tokens/s, {self.energy_per_token_j:.4g} J a "
            f"token, {self.cache_bytes:,} bytes of keys and values)"
        )

    @property
    def time_to_first_token_s(self) -> float:
        """From the prompts to the first token of each: the prompts follow one another through the layers."""
        return self.prefill.pipelined.latency_s + (self.batch - 1) / self.prefill.pipelined.throughput_per_s

    @property
    def step_s(self) -> float:
        """From one token of an answer to the next: a token goes through all layers, those of a batch follow one
        another."""
        return self.decode.pipelined.latency_s + (self.batch - 1) / self.decode.pipelined.throughput_per_s

    @property
    def tokens_per_s(self) -> float:
        """Of all answers of the batch together, once they have begun."""
        return self.batch / self.step_s

    @property
    def energy_j(self) -> float:
        """Of one answer, without leakage."""
        return self.prefill.energy_j + (self.generated - 1) * self.decode.energy_j

    @property
    def energy_per_token_j(self) -> float:
        """Of one answer, its prompt included, by the tokens of the answer."""
        return self.energy_j / self.generated

    @property
    def cache_bytes(self) -> int:
        """Keys and values of the batch, half-way through the answers."""
        return self.decode.cache_bytes


def serving(
    model: "nn.Module | Compression",
    example: Inputs | None = None,
    *,
    prompt: int,
    generated: int,
    batch: int = 1,
    chip: str | Path | Chip | None = None,
    skip: str | Collection[str] = (),
    plan: "NetworkPlan | Compression | str | Path | None" = None,
) -> ServingReport:
    """Time to the first token, tokens a second and energy of a transformer that answers prompts.

    Args:
        model: as for ``estimate``.
        example: as for ``estimate``.
        prompt: tokens of a prompt.
        generated: tokens of an answer.
        batch: prompts that are answered together.
        chip: as for ``estimate``.
        skip: as for ``estimate``.
        plan: as for ``estimate``.

    Raises:
        UserError: as ``estimate``, or a number is none.
    """
    check_counts(prompt=prompt, generated=generated)
    phases: list[tuple[Phase, int | None]] = [("prefill", prompt), ("decode", prompt + generated // 2)]
    prefill, decode = of_phases(model, example, phases, batch, chip, skip, plan)
    return ServingReport(prompt, generated, batch, prefill, decode)
