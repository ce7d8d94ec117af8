"""What several runs were made with: what they have in common, what differs, what may therefore not be compared."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from prap_pim.common.settings import read_yaml
from prap_pim.report.names import run_names
from prap_pim.report.quality import measured
from prap_pim.report.quantities import count, percent
from prap_pim.report.summary import guessed
from prap_pim.results.folder import RunFolder
from prap_pim.results.run import Results

_SETTINGS = 2000  # of a configuration that are looked at; a run has some hundred
_DEPTH = 12  # of settings in settings
_NAMED = 3  # settings in a sentence; of more the table tells

Affects = Literal["costs", "answers", "both", "neither"]


@dataclass(frozen=True)
class NamedRun:
    """A finished run.

    Attributes:
        name: that no other run beside it has.
        results: of the run.
        settings: its resolved configuration, flat: "training.epochs" and its value; None: not known.
        inputs: digests of what the configuration only names, such as the data; empty: not known.
    """

    name: str
    results: Results
    settings: Mapping[str, str] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


def read_runs(folders: Sequence[RunFolder]) -> list[NamedRun]:
    """Runs under names that tell them apart.

    Raises:
        UserError: a run has not finished, or a file of it is missing or damaged.
    """
    results = [folder.read_results() for folder in folders]
    names = run_names([each.name for each in results], [folder.path for folder in folders])
    runs = []
    for name, folder, each in zip(names, folders, results, strict=True):
        settings, inputs = None, {}
        if folder.manifest.exists():  # not results alone, without their folder
            settings = dict(islice(_flat(read_yaml(folder.config)), _SETTINGS))
            inputs = folder.read_manifest().inputs
        runs.append(NamedRun(name, each, settings, inputs))
    return runs


def _flat(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Settings one by one, of those that are set; in a list by the name of each item, else by its number."""
    if value is None:
        return
    if isinstance(value, dict | list) and value and depth < _DEPTH:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(value, list) and isinstance(item, dict) and isinstance(item.get("name"), str):
                key = item["name"]
            yield from _flat(item, f"{name}.{key}" if name else f"{key}", depth + 1)
    elif isinstance(value, dict | list):
        yield name, "..." if value else "none"
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)


@dataclass(frozen=True)
class Aspect:
    """What a run was made with.

    Attributes:
        label: in words.
        values: of each run.
        affects: what may not be compared between runs that differ in it.
    """

    label: str
    values: tuple[str, ...]
    affects: Affects = "neither"

    @property
    def differs(self) -> bool:
        """Whether not all runs have the same."""
        return len(set(self.values)) > 1


def aspects(runs: Sequence[NamedRun]) -> list[Aspect]:
    """What runs were made with, what weighs most first."""

    digests = tuple(run.inputs.get("data", "")[:12] for run in runs)

    def aspect(label: str, value: Callable[[Results], str], affects: Affects = "neither") -> Aspect:
        return Aspect(label, tuple(value(run.results) for run in runs), affects)

    return [
        Aspect("chip", tuple(_chips(runs)), "costs"),
        aspect("network", lambda r: f"{r.network}, {count(r.parameters)} weights", "both"),
        aspect("data", lambda r: f"{r.data} ({', '.join(f'{k} {count(n)}' for k, n in r.images.items())})", "both"),
        *([Aspect("content and split of the data", digests, "answers")] if all(digests) else []),
        aspect("training", lambda r: r.weights, "answers"),
        aspect("seed", lambda r: str(r.seed), "answers"),
        aspect("zero-input skipping", lambda r: "on" if r.zero_input_skipping else "off", "costs"),
        aspect("costing", lambda r: f"pipelined times by {r.timing}, energy of {r.energy_of} data", "costs"),
        aspect("versions", lambda r: ", ".join(f"{name} {version}" for name, version in r.versions.items())),
        aspect("crossbar budget", lambda r: count(r.methods[0].at_budget.budget)),
        aspect("methods", lambda r: ", ".join(method.name for method in r.methods)),
        aspect("command", lambda r: r.command),
    ]


def _chips(runs: Sequence[NamedRun]) -> list[str]:
    """A name for each chip; chips of one name whose figures differ are numbered."""
    known: dict[str, list[Any]] = {}
    names = []
    for run in runs:
        chip = run.results.chip
        facts = chip.model_dump(include={"geometry", "figures", "conventions"})
        variants = known.setdefault(chip.name, [])
        if facts not in variants:
            variants.append(facts)
        number = variants.index(facts) + 1
        names.append(chip.name if number == 1 else f"{chip.name}, with other figures ({number})")
    return names


# which aspect tells of a setting, by the first word of its name
_TOLD = {
    "seed": "seed",
    "data": "data",
    "model": "network",
    "chip": "chip",
    "training": "training",
    "checkpoint": "training",
    "zero_input_skipping": "zero-input skipping",
    "cost": "costing",
    "crossbar_budget": "crossbar budget",
    "methods": "methods",
}
_AFFECTS: dict[str, Affects] = {"mapping": "costs", "training": "answers", "checkpoint": "answers", "quantize": "both"}


def settings(runs: Sequence[NamedRun]) -> list[Aspect]:
    """Settings of the configurations that are not the same in all runs; of methods that all have."""
    known = [run.settings for run in runs if run.settings is not None]
    if len(known) < len(runs):
        return []
    shared = set.intersection(*({method.name for method in run.results.methods} for run in runs))
    found = []
    for name in dict.fromkeys(name for each in known for name in each):
        root, _, rest = name.partition(".")
        if root == "methods" and (rest.endswith(".description") or not any(rest.startswith(f"{m}.") for m in shared)):
            continue
        aspect = Aspect(name, tuple(each.get(name, "not set") for each in known), _AFFECTS.get(root, "neither"))
        if aspect.differs and root != "name":
            found.append(aspect)
    return found


@dataclass(frozen=True)
class Verdict:
    """What may be compared.

    Attributes:
        alike: nothing differs that figures depend on, and every run measured an accuracy that means something.
        same: nothing differs at all but methods, name and command.
        sentences: why, and what follows.
    """

    alike: bool
    same: bool
    sentences: tuple[str, ...]


def verdict(runs: Sequence[NamedRun]) -> Verdict:
    """Whether figures of different runs may be compared, and what exactly differs."""
    weighty = [each for each in aspects(runs) if each.label not in ("methods", "command")]
    told = [each.label for each in weighty if each.differs] + ["methods"]
    further = [each for each in settings(runs) if _TOLD.get(each.label.partition(".")[0]) not in told]
    different = [*(each for each in weighty if each.differs), *further]
    sentences = []
    if different:
        names = [each.label for each in different]
        if len(further) > _NAMED:
            names[-len(further) :] = [f"{count(len(further))} further settings"]
        sentences.append(f"These runs differ in {_listed(names)}.")
    else:
        sentences.append(f"These runs have the same {_listed([each.label for each in weighty])}.")
    affected = {each.affects for each in different}
    if affected & {"costs", "both"}:
        sentences.append(
            "Latency, energy and area of different runs are not of the same thing: read the gains, which are within "
            "each run, over its own first method."
        )
    if affected & {"answers", "both"}:
        sentences.append("Accuracies of different runs are not of the same trained network and test data.")
    unknown = [run.name for run in runs if run.settings is None]
    if unknown:
        sentences.append(f"Further settings are not compared: {_listed(unknown)} came without a configuration.")
    notes = [note for run in runs if (note := _meaningless(run))]
    alike = not affected - {"neither"} and not notes
    return Verdict(alike, alike and not different, (*sentences, *notes))


def _meaningless(run: NamedRun) -> str:
    """Says that a run's accuracy means nothing; empty: it means something."""
    results = run.results
    if not measured(results):
        return f"{run.name}: accuracy was not measured ({results.weights})."
    if results.float_accuracy is not None and (guess := guessed(results, results.float_accuracy)):
        return f"{run.name}: the float network, with {percent(results.float_accuracy)}, is {guess}."
    lost = [each.name for each in results.methods if guessed(results, each.bit_true_accuracy)]
    return f"{run.name}: {_listed(lost)}: no better than guessing." if lost else ""


def _listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
