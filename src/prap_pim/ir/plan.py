"""The layer plan: what every method ends in and everything after it reads.

A plan says which rows drive an OU together (row groups), which weight patterns are stored, in how many bits (donors),
and which filter takes which donor's result with which power of two (uses):

    accumulator[filter] += sign * 2**exponent * (donor . x[rows])

A filter may take several donors of a row group: its pattern there is their sum.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import check_plain, path_of, write_where_asked
from prap_pim.common.memory import check_room
from prap_pim.ir.network import Network, StoredWeight
from prap_pim.ir.outline import Outline

EXPONENT_MIN = -8  # PRAP, step 2: a scale is a multiple of 2**-8
EXPONENT_MAX = 7
INT8 = np.iinfo(np.int8).bits
_FORMAT = "prap-pim network plan 1"
_NUMBERS = {
    "convolution_groups": 1,
    "weight_bits": INT8,
    "input_bits": INT8,
}  # of a layer; the usual ones, where a file does not say
_HEADER = {"format", "method", "layers", "inputs", "input_step", "input_zero", "network", *_NUMBERS}
_ARRAYS = {
    "rows": np.int32,
    "donors": np.int8,
    "donor_start": np.int64,
    "use_start": np.int64,
    "use_filter": np.int32,
    "use_donor": np.int32,
    "use_sign": np.int8,
    "use_exponent": np.int8,
    "step": np.float32,
    "bias": np.float32,
}


def largest_integer(bits: int) -> int:
    """That a signed integer of so many bits can be."""
    return (1 << (bits - 1)) - 1


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """A layer's weights as patterns and their uses. G row groups, D donors, U uses, O filters, h rows of an OU.

    Attributes:
        name: the layer's name.
        inputs: im2col rows of the layer.
        rows: int32 [G, h], im2col rows that drive a row group; -1 marks an unused row.
        donors: int8 [D, h], stored weight patterns, row group after row group; 0 on unused rows.
        donor_start: int64 [G + 1]; the donors of group g are donor_start[g] : donor_start[g + 1].
        use_start: int64 [G + 1]; likewise for the uses, within a group in ascending order of filter and donor.
        use_filter: int32 [U], the filter that a use adds to, which takes a donor at most once.
        use_donor: int32 [U], row of ``donors``, in the same row group.
        use_sign: int8 [U], +1 or -1.
        use_exponent: int8 [U], power of two in EXPONENT_MIN..EXPONENT_MAX.
        step: float32 [O], the real weight that integer 1 stands for.
        bias: float32 [O], added to what the weights give, in front of a batch norm.
        convolution_groups: of a grouped convolution: a filter has weights on the inputs of its group alone.
        weight_bits: 2..8, of a donor's values, which lie in -2**(weight_bits - 1) .. 2**(weight_bits - 1) - 1.
        input_bits: 2..8, of the integers that the layer reads.

    Arrays are read-only. An instance that breaks a rule above cannot be built: ``UserError`` names the rule.
    """

    name: str
    inputs: int
    rows: NDArray[np.int32]
    donors: NDArray[np.int8]
    donor_start: NDArray[np.int64]
    use_start: NDArray[np.int64]
    use_filter: NDArray[np.int32]
    use_donor: NDArray[np.int32]
    use_sign: NDArray[np.int8]
    use_exponent: NDArray[np.int8]
    step: NDArray[np.float32]
    bias: NDArray[np.float32]
    convolution_groups: int = 1
    weight_bits: int = INT8
    input_bits: int = INT8

    def __repr__(self) -> str:
        donors = f"{len(self.donors):,} donors" + (f" of {self.weight_bits} bits" if self.weight_bits < INT8 else "")
        sizes = f"{len(self.rows):,} row groups, {donors}, {self.uses:,} uses"
        return f"{type(self).__name__}({self.name}: {self.inputs:,} inputs, {len(self.step):,} filters, {sizes})"

    def __post_init__(self) -> None:
        for key, dtype in _ARRAYS.items():
            value = getattr(self, key)
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                raise UserError(f"plan of {self.name}: {key} must be an array of {np.dtype(dtype).name}")
            if not (value.flags.c_contiguous and not value.flags.writeable):
                value = np.array(value, order="C")  # a copy: the caller's array stays the caller's
                value.flags.writeable = False
                object.__setattr__(self, key, value)
        for complaint in self._broken_rules():
            raise UserError(f"plan of {self.name}: {complaint}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for key in _ARRAYS:  # which pickle gives back as arrays that can be written to
            getattr(self, key).flags.writeable = False

    def _broken_rules(self) -> Iterator[str]:
        if self.inputs < 1:
            yield "a layer has at least one input"
        if self.rows.ndim != 2 or self.rows.shape[1] < 1:
            yield "rows must be [groups, h]"
        groups, height = self.rows.shape
        if self.donors.ndim != 2 or self.donors.shape[1] != height:
            yield f"donors must be [donors, {height}]"
        for key in ("donor_start", "use_start", "use_filter", "use_donor", "use_sign", "use_exponent", "step", "bias"):
            if getattr(self, key).ndim != 1:
                yield f"{key} must have one dimension"
        if len(self.step) < 1 or len(self.step) != len(self.bias):
            yield "step and bias must have one value per filter"
        if not (np.isfinite(self.step).all() and np.isfinite(self.bias).all()):
            yield "step and bias must be finite"
        for key, start, end in (("donor", self.donor_start, len(self.donors)), ("use", self.use_start, self.uses)):
            if len(start) != groups + 1 or start[0] != 0 or start[-1] != end or (np.diff(start) < 0).any():
                yield f"{key}_start must rise from 0 to {end} in {groups} steps"
        if not len(self.use_filter) == len(self.use_donor) == len(self.use_sign) == len(self.use_exponent):
            yield "the use_ arrays must have one length"
        if (self.rows < -1).any() or (self.rows >= self.inputs).any():
            yield f"rows must lie in -1..{self.inputs - 1}"
        ordered = np.sort(self.rows, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            yield "a row group names one row twice"
        if self.donors[self.rows[self.donor_group] < 0].any():
            yield "a donor has a weight on an unused row"
        for key in ("weight_bits", "input_bits"):
            if type(getattr(self, key)) is not int or not 2 <= getattr(self, key) <= INT8:
                yield f"{key} must be a whole number in 2..{INT8}"
        largest = self.largest_weight
        if (self.donors < -largest - 1).any() or (self.donors > largest).any():
            yield f"donors of {self.weight_bits} bits must lie in {-largest - 1}..{largest}"
        if (self.use_filter < 0).any() or (self.use_filter >= self.filters).any():
            yield f"use_filter must lie in 0..{self.filters - 1}"
        group = self.use_group
        before, after = self.use_filter[:-1], self.use_filter[1:]
        in_order = (before < after) | ((before == after) & (self.use_donor[:-1] < self.use_donor[1:]))
        if ((group[1:] == group[:-1]) & ~in_order).any():
            yield "the uses of a row group must be in ascending order of filter and donor, each pair once"
        if ((self.use_donor < self.donor_start[group]) | (self.use_donor >= self.donor_start[group + 1])).any():
            yield "a use takes a donor of another row group"
        if not np.isin(self.use_sign, (-1, 1)).all():
            yield "use_sign must be 1 or -1"
        if ((self.use_exponent < EXPONENT_MIN) | (self.use_exponent > EXPONENT_MAX)).any():
            yield f"use_exponent must lie in {EXPONENT_MIN}..{EXPONENT_MAX}"
        if (np.bincount(self.use_donor, minlength=len(self.donors)) == 0).any():
            yield "a donor is used by no filter"
        parts = self.convolution_groups
        if parts < 1 or self.filters % parts or self.inputs % parts:
            yield f"filters and inputs must be shared out evenly among {parts} convolution groups"
        elif parts > 1 and (self.donors[self.use_donor][self._foreign()] != 0).any():
            yield "a filter has a weight on an input of another convolution group"

    def _foreign(self) -> NDArray[np.bool_]:
        """Where a use sees an input that is not of its filter's group, bool [U, h]."""
        own = self.use_filter // (self.filters // self.convolution_groups)
        rows = self.rows[self.use_group]
        return np.asarray((rows >= 0) & (rows // self.fan_in != own[:, None]))

    @property
    def filters(self) -> int:
        """O, output channels."""
        return len(self.step)

    @property
    def fan_in(self) -> int:
        """Inputs that one filter may read: all, or those of its convolution group."""
        return self.inputs // self.convolution_groups

    @property
    def largest_weight(self) -> int:
        """The largest value that a donor may hold."""
        return largest_integer(self.weight_bits)

    @property
    def groups(self) -> int:
        """G, row groups."""
        return len(self.rows)

    @property
    def uses(self) -> int:
        """U, partial sums that are added per output position."""
        return len(self.use_filter)

    @property
    def donors_per_group(self) -> NDArray[np.int64]:
        """K, donors of each row group, int64 [G]."""
        return np.diff(self.donor_start)

    @property
    def donor_group(self) -> NDArray[np.int64]:
        """Row group of each donor, int64 [D]."""
        return np.repeat(np.arange(self.groups), self.donors_per_group)

    @property
    def use_group(self) -> NDArray[np.int64]:
        """Row group of each use, int64 [U]."""
        return np.repeat(np.arange(self.groups), np.diff(self.use_start))

    @property
    def fraction_bits(self) -> int:
        """Binary places of the weights: ``weights()`` counts in 2**-fraction_bits."""
        return max(0, -int(self.use_exponent.min(initial=0)))

    def weights(self) -> NDArray[np.int32]:
        """The compressed weight matrix that the plan computes, int32 [O, fan_in], in units of 2**-fraction_bits.

        ``real_weights()`` is this times ``step``. Donors of a filter that share a row add up. Column c of a filter of
        convolution group i is input ``i * fan_in + c``.
        """
        matrix = np.zeros((self.filters, self.fan_in), np.int32)
        gain = self.use_sign.astype(np.int32) << (self.use_exponent.astype(np.int32) + self.fraction_bits)
        together = self.filters // self.convolution_groups
        _add_up(matrix, together, self.rows, self.donors, self.use_start, self.use_filter, self.use_donor, gain)
        return matrix

    def real_weights(self) -> NDArray[np.float64]:
        """The weights as real numbers, float64 [O, fan_in]: ``weights()`` times ``step``."""
        return self.weights() * (self.step[:, None].astype(np.float64) * 2.0**-self.fraction_bits)

    def float32_weights(self) -> NDArray[np.float32]:
        """``real_weights()`` in float32."""
        return self.real_weights().astype(np.float32)

    def scaled(self, filter_scale: NDArray[np.float32], filter_bias: NDArray[np.float32]) -> "LayerPlan":
        """On crossbars: ``step`` times ``filter_scale``, and ``filter_bias``, float32 [O], as ``Layer`` has them."""
        arrays: dict[str, Any] = {key: getattr(self, key) for key in _ARRAYS}
        arrays["step"] = (self.step.astype(np.float64) * filter_scale).astype(np.float32)
        arrays["bias"] = np.asarray(filter_bias, np.float32)
        return LayerPlan(self.name, self.inputs, **arrays, **{key: getattr(self, key) for key in _NUMBERS})

    def alone(self) -> "LayerPlan":
        """On crossbars, with no batch norm behind."""
        return self.scaled(np.ones(self.filters, np.float32), self.bias)

    @classmethod
    def of_groups(cls, name: str, parts: Sequence[Self]) -> Self:
        """One plan of those of a convolution's groups, which have equally many filters and inputs each."""
        filters, fan_in = parts[0].filters, parts[0].inputs
        donors = np.cumsum([0, *(len(part.donors) for part in parts)])
        uses = np.cumsum([0, *(part.uses for part in parts)])
        every: dict[str, list[NDArray[Any]]] = {key: [] for key in _ARRAYS}
        for i, part in enumerate(parts):
            moved = {
                "rows": np.where(part.rows >= 0, part.rows + i * fan_in, -1),
                "donor_start": part.donor_start[i > 0 :] + donors[i],
                "use_start": part.use_start[i > 0 :] + uses[i],
                "use_filter": part.use_filter + i * filters,
                "use_donor": part.use_donor + donors[i],
            }
            for key in _ARRAYS:
                every[key].append(moved.get(key, getattr(part, key)))
        arrays: dict[str, Any] = {key: np.concatenate(values).astype(_ARRAYS[key]) for key, values in every.items()}
        bits = max(part.weight_bits for part in parts)
        return cls(name, fan_in * len(parts), convolution_groups=len(parts), weight_bits=bits, **arrays)

    def digest(self) -> str:
        """SHA-256 over every value."""
        grouped = [self.convolution_groups] if self.convolution_groups > 1 else []
        narrow = [{k: bits} for k in ("weight_bits", "input_bits") if (bits := getattr(self, k)) < INT8]
        total = hashlib.sha256(json.dumps([self.name, self.inputs, *grouped, *narrow]).encode())
        for key in _ARRAYS:
            total.update(getattr(self, key).tobytes())
        return total.hexdigest()

    def same_as(self, other: "LayerWeights") -> bool:
        """Whether every field is equal, bit for bit."""
        plain = ("name", "inputs", *_NUMBERS)
        return all(getattr(self, key) == getattr(other, key) for key in plain) and all(
            np.array_equal(getattr(self, key), getattr(other, key)) for key in _ARRAYS
        )


class LayerPlan(LayerWeights):
    """A layer as stored and computed on crossbars: ``LayerWeights`` with the batch norm that follows.

    ``step`` includes batch norm's factor, and ``bias`` is added to the real result, behind it.
    """


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """The plans of a network's layers, and the step of each layer's int8 inputs.

    Attributes:
        method: the method that made it.
        layers: plans by layer name, in network order.
        input_step: the real activation that a difference of 1 stands for at a layer's input, by layer name.
        input_zero: the integer that stands for 0 there, by layer name; 0 of a layer that is not named.
        outline: the network's shapes and data flow, so that the plan can be costed by itself; None if not known.
    """

    method: str
    layers: Mapping[str, LayerPlan]
    input_step: Mapping[str, float]
    outline: Outline | None = None
    input_zero: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        donors = sum(len(plan.donors) for plan in self.layers.values())
        return f"NetworkPlan({self.method}: {len(self.layers)} layers, {donors:,} donors)"

    def __post_init__(self) -> None:
        if not self.layers:
            raise UserError("a network plan needs at least one layer")
        if list(self.layers) != [plan.name for plan in self.layers.values()]:
            raise UserError("a network plan's keys must be its layers' names")
        if set(self.input_step) != set(self.layers):
            raise UserError("a network plan needs one input step for every layer")
        if not all(np.isfinite(step) and step > 0 for step in self.input_step.values()):
            raise UserError("an input step must be positive and finite")
        zeros = {name: self.input_zero.get(name, 0) for name in self.layers}
        if not set(self.input_zero) <= set(zeros):
            raise UserError("an input's zero must be a layer's")
        for name, zero in zeros.items():
            most = 1 << (self.layers[name].input_bits - 1)
            if type(zero) is not int or not -most <= zero < most:
                raise UserError(f"an input's zero must be a whole number in {-most}..{most - 1}")
        object.__setattr__(self, "input_zero", zeros)

    def network(self) -> Network:
        """The network that the plan computes: its weights are the plan's, batch norm's factor included.

        Raises:
            UserError: the plan was made without the network's shapes, or they do not fit, or memory does not hold it.
        """
        if self.outline is None:
            raise UserError("the plan was saved without its model's shapes: estimate(model, example, plan=plan)")
        largest = max((plan.filters * plan.fan_in for plan in self.layers.values()), default=0)
        check_room(8 * largest, "a layer of the plan")  # float64, made of one layer at a time
        weights = {n: StoredWeight((p.filters, p.fan_in), p.float32_weights) for n, p in self.layers.items()}
        return self.outline.network(weights, {name: plan.bias for name, plan in self.layers.items()})

    def digest(self) -> str:
        """SHA-256 over every value of the plan: equal plans have equal digests. The outline is no part of it."""
        zeros = [dict(self.input_zero)] if any(self.input_zero.values()) else []
        total = hashlib.sha256(json.dumps([_FORMAT, self.method, dict(self.input_step), *zeros]).encode())
        for plan in self.layers.values():
            total.update(plan.digest().encode())
        return total.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            UserError: the file cannot be written, or there is no such folder.
        """
        write_where_asked(path_of(path, "path"), self.packed())

    def packed(self) -> bytes:
        """The plan as its file has it: equal plans are equal bytes."""
        names = list(self.layers)
        header = {
            "format": _FORMAT,
            "method": self.method,
            "layers": json.dumps(names),
            "inputs": json.dumps([self.layers[name].inputs for name in names]),
            "convolution_groups": json.dumps([self.layers[name].convolution_groups for name in names]),
            "input_step": json.dumps([self.input_step[name] for name in names]),
            "input_zero": json.dumps([self.input_zero[name] for name in names]),
        }
        if self.outline is not None:
            header["network"] = self.outline.model_dump_json()
        for key in ("weight_bits", "input_bits"):
            if min(bits := [getattr(self.layers[name], key) for name in names]) < INT8:
                header[key] = json.dumps(bits)
        tensors = {f"{i}.{key}": getattr(self.layers[name], key) for i, name in enumerate(names) for key in _ARRAYS}
        return _in_one_order(save(tensors, metadata=header))

    @staticmethod
    def load(path: Path | str) -> "NetworkPlan":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing, is not a plan, or holds an invalid plan.
        """
        check_plain(path_of(path, "path"))
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("format") == _FORMAT:
                    return _unpacked(header, file)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (UserError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"cannot read {path}: it is not a whole plan ({one_line(error)})") from error
        raise UserError(f"cannot read {path}: it is not a plan of this version ({_FORMAT})")


def _unpacked(header: Mapping[str, str], file: Any) -> NetworkPlan:
    """What ``packed`` made.

    Raises:
        UserError, SafetensorError, KeyError, ValueError, TypeError, RecursionError: it is something else.
    """
    if unknown := set(header) - _HEADER:
        raise ValueError(f"unknown {sorted(unknown)[0]!r}")
    names, inputs, steps = (json.loads(header[key]) for key in ("layers", "inputs", "input_step"))
    if not all(type(name) is str for name in names) or len(set(names)) < len(names):
        raise ValueError("layer names must be different texts")
    zeros = json.loads(header.get("input_zero", json.dumps([0] * len(names))))  # older files have none
    numbers = [json.loads(header.get(key, json.dumps([n] * len(names)))) for key, n in _NUMBERS.items()]
    if not all(type(count) is int for counts in (inputs, *numbers) for count in counts):
        raise ValueError("inputs, convolution groups and bits must be whole numbers")
    if set(file.keys()) != {f"{i}.{key}" for i in range(len(names)) for key in _ARRAYS}:
        raise ValueError("its tensors are not those of its layers")
    layers = {}
    for i, (name, count, *others) in enumerate(zip(names, inputs, *numbers, strict=True)):
        values: dict[str, Any] = {key: file.get_tensor(f"{i}.{key}") for key in _ARRAYS}
        values |= zip(_NUMBERS, others, strict=True)
        layers[name] = LayerPlan(name, count, **values)
    outline = Outline.checked(json.loads(header["network"]), "network") if "network" in header else None
    of_inputs = dict(zip(names, steps, strict=True)), outline, dict(zip(names, zeros, strict=True))
    return NetworkPlan(header["method"], layers, *of_inputs)


def _in_one_order(file: bytes) -> bytes:
    """A safetensors file with its metadata sorted, so that equal plans are equal files: the library shuffles them."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


@njit(cache=True, nogil=True)
def _add_up(
    matrix: NDArray[np.int32],
    together: int,
    rows: NDArray[np.int32],
    donors: NDArray[np.int8],
    use_start: NDArray[np.int64],
    use_filter: NDArray[np.int32],
    use_donor: NDArray[np.int32],
    gain: NDArray[np.int32],
) -> None:
    """``LayerPlan.weights`` into zeros; ``together``: filters of a convolution group."""
    fan_in = matrix.shape[1]
    for group in range(len(rows)):
        for use in range(use_start[group], use_start[group + 1]):
            name, donor = use_filter[use], use_donor[use]
            for i in range(rows.shape[1]):
                row = rows[group, i]
                if row >= 0 and row // fan_in == name // together:
                    matrix[name, row % fan_in] += donors[donor, i] * gain[use]


assert {field.name for field in fields(LayerWeights)} == {"name", "inputs", *_NUMBERS, *_ARRAYS}
