"""What a study leaves in study.json: every trial with its figures, and which of them none other is better than."""

import json
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prap_pim.common.settings import Saved, Settings

STUDY = "study.json"  # in the study's folder

Direction = Literal["minimize", "maximize"]

OWN = "bit_true_metrics."  # what stands before a number of the user's own metric; "metrics." for short

SHORT = {  # names for the figures that are asked for most
    "accuracy": "bit_true_accuracy",
    "latency": "pipelined.latency_s",
    "throughput": "pipelined.throughput_per_s",
    "energy": "energy_j",
    "area": "area_m2",
}


class TrialResult(Settings):
    """One point of the search space.

    Attributes:
        number: trials are counted from 0 in the order in which they were proposed.
        values: what the settings of the space were, by their names there; those of methods that the trial does not
            have are not among them.
        reason: why there are no figures, such as a chip that cannot be; None: there are.
        figures: by name, as in results.json with dots; None: the chip's components have none.
        violation: by constraint, how far it is missed as a share of its limit (0 or less: it is met).
    """

    from_outside = False

    number: int = Field(ge=0)
    values: dict[str, Any]
    reason: str | None = None
    figures: dict[str, int | float | None] = Field(default={})
    violation: dict[str, float] = Field(default={})

    @property
    def feasible(self) -> bool:
        """Whether there are figures, and all constraints are met."""
        return self.reason is None and all(excess <= 0 for excess in self.violation.values())


class StudyResults(Settings, Saved):
    """A whole study.

    Attributes:
        name: of the study.
        command: what was typed.
        seed: of the proposals.
        sampler: how points were proposed.
        versions: of Python and the packages that compute.
        objectives: figure and direction.
        constraints: figure and limit, as "<= 5e-05".
        space: setting and what it may be, in words.
        trials: in the order of their numbers.
        front: numbers of the trials that meet all constraints and of which no other is better in one objective and not
            worse in any; of equal points the first.
    """

    schema_version: Literal[1] = 1
    name: str
    command: str
    seed: int
    sampler: str
    versions: dict[str, str]
    objectives: dict[str, Direction] = Field(min_length=1)
    constraints: dict[str, str]
    space: dict[str, str]
    trials: list[TrialResult]
    front: list[int]

    @model_validator(mode="after")
    def _numbered(self) -> Self:
        if [trial.number for trial in self.trials] != list(range(len(self.trials))):
            raise ValueError("trials are not numbered from 0 on")
        if any(not 0 <= number < len(self.trials) for number in self.front):
            raise ValueError("the front names a trial that is not there")
        return self

    @cached_property
    def repeated(self) -> dict[int, int]:
        """Numbers of trials that were proposed again, with that of the first trial of the same settings."""
        first: dict[str, int] = {}
        found = {t.number: first.setdefault(json.dumps(t.values, sort_keys=True), t.number) for t in self.trials}
        return {number: earlier for number, earlier in found.items() if number != earlier}

    @property
    def front_trials(self) -> list[TrialResult]:
        """The trials of the front, best in the first objective first."""
        first, direction = next(iter(self.objectives.items()))
        sign = -1 if direction == "maximize" else 1
        return sorted((self.trials[number] for number in self.front), key=lambda t: sign * (t.figures[first] or 0))
