"""Methods by name, with keyword settings."""

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

from prap_pim.capture import Captured
from prap_pim.common.errors import UserError
from prap_pim.common.settings import nearest
from prap_pim.hardware.chip import Chip
from prap_pim.methods.config import MethodConfig
from prap_pim.methods.equal_compute import IDENTICAL, ORC, Family, at_compute_ratio, similar
from prap_pim.methods.prune import NoPruning, PatternPruning

_FAMILIES: dict[str, Callable[[Mapping[str, Any]], Family]] = {
    "similar": lambda options: similar(NoPruning()),
    "prap": lambda options: similar(PatternPruning(**options)),
    "identical": lambda options: IDENTICAL,
    "orc": lambda options: ORC,
}


_PRUNING = {"orc": "orc", "structured": "structured", "pattern": "pattern", "prap": "pattern"}


_REUSE = {"calibrated": "calibrated", "similar": "similar", "identical": "identical", "prap": "similar"}


_DECIDES = {"structured": "ratio", "pattern": "group_channels and pointwise_group"}


_OVERRULED = {  # settings that a compute ratio decides
    "similar": frozenset({"keep"}),
    "prap": frozenset({"keep"}),
    "identical": frozenset({"threshold"}),
    "orc": frozenset({"ratio"}),
}


_OF_REUSE = {"keep", "threshold"}  # settings that go to reuse where a method has both


def method_config(
    name: str,
    captured: Captured,
    chip: Chip,
    compute_ratio: float | None,
    skip: Collection[str],
    options: Mapping[str, Any],
) -> MethodConfig:
    """The configuration that a call asks for."""
    known = ["dense", *dict.fromkeys([*_REUSE, *_PRUNING])]
    if name not in known:
        raise UserError(f"there is no method {name!r} ({nearest(name, known)})")
    layers = [layer.name for layer in captured.network.layers]
    whole = [each for each in layers if any(_named(each, pattern) for pattern in skip)]
    for pattern in skip:
        if not any(_named(each, pattern) for each in (*layers, *captured.unsupported)):
            raise UserError(f"skip: no layer is called {pattern!r} ({nearest(pattern, layers)})")
    if isinstance(options.get("outputs"), Mapping):
        options = {**options, "outputs": {str(key): weight for key, weight in options["outputs"].items()}}
    twice = compute_ratio is not None and sorted(_OVERRULED.get(name, frozenset()) & options.keys())
    if twice:
        raise UserError(f"method {name}: compute_ratio decides {twice[0]}: give one of them")
    value: dict[str, Any] = {"name": name, "exceptions": [{"layers": literal(each)} for each in whole]}
    if name in _FAMILIES and compute_ratio is not None:
        settings = at_compute_ratio(_FAMILIES[name](options), captured.network, chip, compute_ratio, whole)
        value["exceptions"] += [
            {"layers": literal(each), "prune": pruning.model_dump(), "reuse": reusing.model_dump()}
            for each, (pruning, reusing) in settings.items()
        ]
        return MethodConfig.checked(value, f"method {name}")
    if name != "calibrated" and (compute_ratio is not None or "compute_ratio" in options):
        others = f"choose a method that takes one ({', '.join(['calibrated', *_FAMILIES])})"
        if name == "dense":
            raise UserError(
                "method dense keeps every pattern, its compute ratio is always 1: leave compute_ratio (--ratio) out, "
                f"or {others}"
            )
        raise UserError(
            f"method {name} has no compute_ratio: how much it computes follows from its {_DECIDES[name]}; "
            f"leave compute_ratio (--ratio) out, or {others}"
        )
    if compute_ratio is not None and "compute_ratio" in options:
        raise UserError("compute_ratio is given twice")
    given = dict(options) | ({} if compute_ratio is None else {"compute_ratio": compute_ratio})
    both = name in _PRUNING and name in _REUSE
    for_reuse = {key: each for key, each in given.items() if (key in _OF_REUSE if both else name in _REUSE)}
    if name in _REUSE:
        value["reuse"] = {"kind": _REUSE[name], **for_reuse}
    if name in _PRUNING:
        value["prune"] = {"kind": _PRUNING[name]} | {k: each for k, each in given.items() if k not in for_reuse}
    if name == "dense" and given:
        raise UserError(f"method dense has no setting {sorted(given)[0]!r}")
    return MethodConfig.checked(value, f"method {name}")


def _named(path: str, pattern: str) -> bool:
    """Whether a pattern fits the path of a layer, or a module that it is in."""
    return fnmatchcase(path, pattern) or path.startswith(f"{pattern}.")


def literal(layer: str) -> str:
    """A pattern that fits this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in layer)
