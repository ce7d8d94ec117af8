"""A graph of ATen functions in the normal form that the capture works on.

Every product with a weight becomes a call of an ``nn.Linear`` or ``nn.Conv1d..3d``, a recurrent layer its steps, batch
norm a call of its module, and all that the inputs have no part in a constant.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from prap_pim.frontend.contract import Contraction, Labels, View, equation, of_einsum, of_matmul
from prap_pim.frontend.graph import CHAINS, LEFT_DIGITAL, Origin
from prap_pim.frontend.overlap import CONVS, OverlapAdd, products_of
from prap_pim.frontend.recurrent import KINDS, Gates, stepped, unrolled
from prap_pim.frontend.rows import by_offsets

_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_GROUPED = ("_grouped_mm", "grouped_mm_fallback")
_TURNS = ("transpose", "permute", "t", "mT", "numpy_T")
ROOT = "model"  # under which the user's model is in the graph


class Lowering:
    """One exported graph on its way to the normal form."""

    def __init__(self, module: fx.GraphModule, model: nn.Module) -> None:
        self.module, self.graph, self.model = module, module.graph, model
        self.root: dict[str, Any] = {}  # what the new graph refers to, by path
        self.origins: dict[str, Origin] = {}
        self.unsupported: dict[str, str] = {}
        self.values: dict[fx.Node, Any] = {}  # of constants
        self.known: dict[Any, str] = {}  # path of the module that computes a product with a weight, by where that is

    def lowered(self) -> tuple[fx.GraphModule, dict[str, Origin], dict[str, str]]:
        for node in list(self.graph.nodes):
            if node.op == "call_module":  # checks of the inputs, which we make ourselves
                node.replace_all_uses_with(None)
                self.graph.erase_node(node)
        self.constant = self._constants()
        self.open = any(is_open(s) for each in self.graph.nodes if each.op == "placeholder" for s in self._shape(each))
        for node in list(self.graph.nodes):
            if node.op == "call_function" and node not in self.constant:
                self._lower(node)
        for node in reversed(list(self.graph.nodes)):
            computes = node.op in ("get_attr", "call_function", "call_module")
            if computes and not node.users and not _writes(node):
                self.graph.erase_node(node)
        for node in self.graph.nodes:
            if node.op == "get_attr":  # a name of its own: layers are replaced, and what they hold with them
                path = "constants." + str(node.target).replace(".", "_")
                self.root[path] = _attribute(self.module, str(node.target))
                node.target = path
        output = next(iter(reversed(self.graph.nodes)))
        if len(output.args[0]) == 1:
            output.args = (output.args[0][0],)
        self.graph.set_codegen(fx.graph.CodeGen())
        self.graph._tracer_cls = None  # torch.export's own cannot be made anew where the module is unpickled
        kept = {node.target for node in self.graph.nodes if node.op in ("get_attr", "call_module")}
        result = fx.GraphModule({path: value for path, value in self.root.items() if path in kept}, self.graph)
        origins = {path: origin for path, origin in self.origins.items() if path in kept}
        return result.eval(), origins, self.unsupported

    def _constants(self) -> set[fx.Node]:
        """Nodes that follow from the model's parameters and buffers, or from nothing, alone."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            follows = node.op == "call_function" and not _draws(node) and not _writes(node)
            if node.op == "get_attr" or (follows and all(each in found for each in node.all_input_nodes)):
                found.add(node)
        return found

    def _value(self, node: fx.Node) -> Any:
        """Of a constant."""
        if node not in self.values:
            if node.op == "get_attr":
                self.values[node] = _attribute(self.module, str(node.target))
            else:
                arguments, named = fx.node.map_arg((node.args, node.kwargs), self._value)
                with torch.no_grad():
                    function: Any = node.target
                    self.values[node] = function(*arguments, **named)
        return self.values[node]

    def _lower(self, node: fx.Node) -> None:
        name = _name(node)
        if name in ("conv1d", "conv2d", "conv3d"):
            self._convolution(node, int(name[4]))
        elif name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
            self._transposed(node, int(name[14]))
        elif name == "batch_norm":
            self._batch_norm(node)
        elif name.removesuffix("_cell") in KINDS:
            self._recurrent(node, name)
        elif name == "bilinear":
            self._bilinear(node)
        elif (found := self._operands(node, name)) is not None:
            self._product(node, *found)
        elif ("mm" in name or name in CHAINS) and any(self._is_weight(each) for each in node.all_input_nodes):
            self._leave(node, f"a product with a weight by {name} cannot be mapped: use linear layers")

    def _leave(self, node: fx.Node, reason: str) -> None:
        """A product with a weight that stays digital."""
        node.meta[LEFT_DIGITAL] = self._path(node)
        self.unsupported[node.meta[LEFT_DIGITAL]] = reason

    def _is_weight(self, node: Any) -> bool:
        """Whether an argument is a matrix of parameters."""
        if (
            not isinstance(node, fx.Node)
            or node not in self.constant
            or not any(map(self._is_parameter, self._roots(node)))
        ):
            return False
        return isinstance(value := self._value(node), Tensor) and value.ndim >= 2

    def _roots(self, node: fx.Node) -> Iterator[fx.Node]:
        """What a constant is made of."""
        if node.op == "get_attr":
            yield node
        for each in node.all_input_nodes:
            yield from self._roots(each)

    def _is_parameter(self, node: fx.Node) -> bool:
        return isinstance(self._value(node), nn.Parameter)

    def _shape(self, node: Any) -> Sequence[Any]:
        """Of a tensor; open sizes are symbols."""
        value = self._value(node) if node in self.constant else node.meta["val"]
        shape: Sequence[Any] = value.shape
        return shape

    def _operands(self, node: fx.Node, name: str) -> tuple[list[fx.Node], list[Labels], Labels, Any, Any] | None:
        """What a product multiplies, with labels of all axes and of the result's, what is added to it, and the experts
        of its rows where these have weights of their own; None: it is none, or one with factors."""
        given: Any = node.args
        added: Any = None
        if name in ("addmm", "baddbmm", "addbmm"):
            if any(value != 1 for value in node.kwargs.values()):
                return None
            added, *given = given
        if name == "linear":
            x, weight, *rest = given
            added = rest[0] if rest else node.kwargs.get("bias")
            places = tuple(f"p{i}" for i in range(len(self._shape(x)) - 1))
            return [x, weight], [(*places, "k"), ("n", "k")], (*places, "n"), added, None
        if name in _GROUPED and all(each is None for each in given[3:]) and self._is_weight(given[1]):
            route = "s", self._before(node, by_offsets, given[0], given[2])
            return list(given[:2]), [("s", "k"), ("s", "k", "n")], ("s", "n"), None, route
        if name in ("mm", "matmul", "bmm", "addmm", "baddbmm", "addbmm"):
            one, other, wanted = of_matmul(*map(self._shape, given[:2]))
            return list(given[:2]), [one, other], wanted[1:] if name == "addbmm" else wanted, added, None
        if name == "einsum":
            ranks = [len(self._shape(each)) for each in given[1]]
            return list(given[1]), *of_einsum(given[0], ranks), None, None
        if name in ("tensordot", "inner"):
            first = [f"a{i}" for i in range(len(self._shape(given[0])))]
            second = [f"b{i}" for i in range(len(self._shape(given[1])))]
            for at, there in zip(*given[2:4], strict=True) if name == "tensordot" else ((-1, -1),):
                second[there] = first[at]
            once = tuple(x for x in (*first, *second) if (x in first) != (x in second))
            return list(given[:2]), [tuple(first), tuple(second)], once, None, None
        return None

    def _product(
        self, node: fx.Node, operands: list[fx.Node], labels: list[Labels], wanted: Labels, added: Any, route: Any
    ) -> None:
        """Put layers in the place of a product, if it is one with a weight."""
        if len(operands) == 2 and route is None:
            operands, labels, route = self._chosen(operands, labels)
        if all(each in self.constant for each in operands) or not any(map(self._is_weight, operands)):
            return
        while len(operands) > 2:
            rest = {x for each in labels[2:] for x in each} | set(wanted)
            kept = tuple(dict.fromkeys(x for each in labels[:2] for x in each if x in rest))
            both = self._pair(node, operands[:2], labels[:2], kept)
            if both is None:
                return
            operands, labels = [both, *operands[2:]], [kept, *labels[2:]]
        fixed = added if added is None or added in self.constant else None
        found = self._pair(node, operands, labels, wanted, fixed, route)
        if found is not None:
            if added is not fixed:
                found = self._before(node, torch.add, found, added)
            self._replace(node, found)

    def _chosen(self, operands: list[fx.Node], labels: list[Labels]) -> tuple[list[fx.Node], list[Labels], Any]:
        """Operands of which one was chosen from a weight row by row, as that weight with the rows' experts."""
        for i, each in enumerate(operands):
            turns: list[list[int]] = []
            while isinstance(each, fx.Node) and _name(each) in _TURNS and each not in self.constant:
                turns.append(_turned(each, len(self._shape(each))))
                each = each.args[0]  # type: ignore[assignment]
            weight, ids = _picked(each)
            if weight is None or not self._is_weight(weight) or len(self._shape(ids)) != 1:
                continue
            own = labels[i]
            for order in turns:
                own = tuple(own[order.index(axis)] for axis in range(len(order)))
            if own[0] in labels[1 - i]:
                others = operands[1 - i], labels[1 - i]
                return [others[0], weight], [others[1], own], (own[0], ids)
        return operands, labels, None

    def _pair(
        self,
        node: fx.Node,
        operands: list[fx.Node],
        labels: list[Labels],
        wanted: Labels,
        bias: Any = None,
        route: Any = None,
        stacked: bool = True,
    ) -> fx.Node | None:
        """A product of two before a node; None, and noted, if it is one with a weight and cannot be mapped."""
        fixed = [each in self.constant for each in operands]
        if all(fixed) or not any(map(self._is_weight, operands)):
            found = self._before(node, torch.einsum, equation(labels, wanted), operands)
            self.constant |= {found} if all(fixed) else set()
            return found
        at = 1 if self._is_weight(operands[1]) else 0
        x, weight, held = operands[1 - at], operands[at], labels[at]
        shape, (row, ids) = self._value(weight).shape, route or ("", None)
        contraction = Contraction(labels[1 - at], held, wanted, tuple(shape), row, stacked)
        problem = contraction.problem
        if not problem and self.open and "val" in x.meta and not any(map(is_open, x.meta["val"].shape)):
            problem = "its input has no batch"
        added = None
        if bias is not None and (
            contraction.experts or contraction.filters != wanted[-1:] or self._value(bias).ndim > 1
        ):
            added, bias = bias, None
        if problem:
            which = list(shape) if at else "on the left"
            self._leave(node, f"{_name(node)} with a weight {which} cannot be mapped: {problem}")
            return None

        def layer(expert: int, x: fx.Node) -> fx.Node:
            return self._matrix(node, weight, bias, contraction.views(expert), contraction.matrix, x)

        found = contraction.computed(partial(self._before, node), x, layer, ids)
        return found if added is None else self._before(node, torch.add, found, added)

    def _matrix(
        self, node: fx.Node, weight: fx.Node, bias: Any, views: tuple[View, ...], sizes: tuple[int, int], x: fx.Node
    ) -> fx.Node:
        """A call of the linear layer that has a weight, before a node."""
        path = self._layer(weight, bias, views)
        if path not in self.root:
            matrix = self._value(weight)
            for function, arguments in views:
                matrix = function(matrix, *arguments)
            linear = nn.Linear(sizes[1], sizes[0], bias is not None, device="meta")
            self._put(path, linear, matrix.reshape(sizes).contiguous(), bias)
        return self._module(node, path, x)

    def _bilinear(self, node: fx.Node) -> None:
        """bilinear(x1, x2, W [O, I, J], b): x1 by the matrix [O * J, I], and the sums over J of what x2 makes of it."""
        x, y, weight, bias = _arguments(node, ("input1", "input2", "weight", "bias"), (None,))
        if not self._is_weight(weight):
            return
        places = tuple(f"p{i}" for i in range(len(self._shape(x)) - 1))
        both = [(*places, "i"), ("o", "i", "j")]
        found = self._pair(node, [x, weight], both, (*places, "o", "j"), stacked=False)
        if found is not None:
            rest = [(*places, "o", "j"), (*places, "j")]
            found = self._before(node, torch.einsum, equation(rest, (*places, "o")), [found, y])
            self._replace(node, found if bias is None else self._before(node, torch.add, found, bias))

    def _recurrent(self, node: fx.Node, name: str) -> None:
        """An LSTM, GRU or RNN, or one step of a cell: the gates' matrices are layers, called once a time step."""
        given: Any = node.args
        kind = name.removesuffix("_cell")
        if name != kind:
            x, state, *parameters = given
            begin = list(state) if kind == "lstm" else [state]
            _, end = self._direction(node, kind, [*parameters, None, None][:4], x, begin)
            self._replace_outputs(node, end if kind == "lstm" else end[0])
            return
        if len(given) != 9 or isinstance(given[1], list) != (kind == "lstm"):
            self._leave(node, f"a packed sequence in a recurrent layer ({KINDS[kind]}) cannot be mapped")
            return
        x, state, parameters, biased, layers, _, _, both, batch_first = given
        axis = len(self._shape(x)) - 2 if batch_first or len(self._shape(x)) == 2 else 0
        steps = self._shape(x)[axis]
        if is_open(steps) or not any(map(is_open, self._shape(x))):
            reason = "it takes one number of time steps, beside a batch of any size (batch_first?)"
            self._leave(node, f"a recurrent layer ({KINDS[kind]}) cannot be mapped: {reason}")
            return
        states, directions = state if kind == "lstm" else [state], 1 + bool(both)
        each = len(parameters) // (layers * directions)
        last: list[list[fx.Node]] = []
        for at in range(layers):
            own = []
            for i in range(at * directions, (at + 1) * directions):
                group = list(parameters[i * each : (i + 1) * each])
                own.append(group[:2] + (group[2:4] if biased else [None, None]) + group[2 + 2 * bool(biased) :])
            begin = [
                [self._before(node, torch.select, s, 0, at * directions + i) for s in states] for i in range(directions)
            ]
            found = [
                self._direction(node, kind, group, x, start, axis, int(steps), backward=bool(i))
                for i, (group, start) in enumerate(zip(own, begin, strict=True))
            ]
            x = found[0][0] if directions == 1 else self._before(node, torch.cat, [each for each, _ in found], -1)
            last += [end for _, end in found]
        ends = [self._before(node, torch.stack, [end[i] for end in last], 0) for i in range(len(states))]
        self._replace_outputs(node, [x, *ends])

    def _direction(
        self,
        node: fx.Node,
        kind: str,
        parameters: list[Any],
        x: fx.Node,
        state: list[Any],
        axis: int | None = None,
        steps: int = 1,
        backward: bool = False,
    ) -> tuple[Any, list[Any]]:
        """A layer of a recurrent network in one direction, before a node: its outputs, and the last state. No axis: a
        cell's one step."""
        w_in, w_held, b_in, b_held, *projection = parameters

        def linear(weight: fx.Node, bias: Any, x: fx.Node) -> fx.Node:
            return self._matrix(node, weight, bias, (), tuple(self._value(weight).shape), x)

        given = linear(w_in, b_in, x)
        path = f"{self._layer(w_held, b_held, ())}_gates"
        self.root.setdefault(path, Gates(kind))
        apply = partial(self._before, node)

        def step(given: fx.Node, state: list[Any]) -> list[Any]:
            found = stepped(
                apply, partial(self._module, node, path), kind, given, partial(linear, w_held, b_held), state
            )
            return [linear(projection[0], None, found[0]), *found[1:]] if projection else found

        if axis is None:
            return None, step(given, state)
        return unrolled(apply, step, given, state, axis, steps, backward)

    def _before(self, node: fx.Node, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        """A function put into the graph before a node."""
        with self.graph.inserting_before(node):
            return self.graph.call_function(function, arguments)

    def _module(self, node: fx.Node, path: str, *inputs: Any) -> fx.Node:
        with self.graph.inserting_before(node):
            return self.graph.create_node("call_module", path, inputs)

    def _replace(self, node: fx.Node, by: fx.Node) -> None:
        by.meta.setdefault("val", node.meta.get("val"))
        node.replace_all_uses_with(by)
        self.graph.erase_node(node)

    def _replace_outputs(self, node: fx.Node, by: Any) -> None:
        """Of a node that gives one tensor, or several, each of which is taken out by its number."""
        if isinstance(by, fx.Node):
            self._replace(node, by)
            return
        for user in list(node.users):
            self._replace(user, by[user.args[1]])
        self.graph.erase_node(node)

    def _convolution(self, node: fx.Node, dimensions: int) -> None:
        x, weight, bias, stride, padding, dilation, groups = _arguments(
            node, ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), (None, 1, 0, 1, 1)
        )
        if not self._is_weight(weight) or not (bias is None or bias in self.constant):
            return
        value = self._value(weight)
        stride, dilation = _each(stride, dimensions), _each(dilation, dimensions)
        if padding in ("same", "valid"):
            total = [d * (k - 1) for d, k in zip(dilation, value.shape[2:], strict=True)]
            total = total if padding == "same" else [0] * dimensions
            uneven = [each for size in reversed(total) for each in (0, size % 2)]  # torch pads the end by one more
            if any(uneven):
                with self.graph.inserting_before(node):
                    x = self.graph.call_function(functional.pad, (x, uneven))
            padding = [size // 2 for size in total]
        geometry = stride, _each(padding, dimensions), dilation, groups
        path = self._layer(weight, bias, (), geometry)
        if path not in self.root:
            channels = value.shape[1] * groups
            conv = CONVS[dimensions](channels, len(value), value.shape[2:], *geometry, bias is not None, device="meta")
            self._put(path, conv, value, bias)
        self._call(node, path, x)

    def _transposed(self, node: fx.Node, dimensions: int) -> None:
        """As the products of every input position with all kernel positions, and their sums overlapped."""
        x, weight, bias, stride, padding, output_padding, groups, dilation = _arguments(
            node,
            ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
            (None, 1, 0, 0, 1, 1),
        )
        if not self._is_weight(weight) or not (bias is None or bias in self.constant):
            return
        value = self._value(weight)  # [C, O / groups, *kernel]
        conv, views = products_of(value, groups)
        path = self._layer(weight, None, views, groups)
        self.root.setdefault(path, conv)
        kernel, shift = value.shape[2:], None if bias is None else self._value(bias)
        stride, padding, more, dilation = (
            _each(each, dimensions) for each in (stride, padding, output_padding, dilation)
        )
        margins = [(-p, m - p) for p, m in zip(padding, more, strict=True)]
        after = f"{path}_overlap"
        self.root.setdefault(after, OverlapAdd(groups * value.shape[1], kernel, shift, stride, dilation, margins))
        self._call(node, after, self._module(node, path, x))

    def _batch_norm(self, node: fx.Node) -> None:
        given: Any = node.args[:8]
        x, weight, bias, mean, variance, training, _, eps = given
        rank = len(node.meta["val"].shape)
        if training or mean is None or variance is None or rank not in _NORMS:
            return
        if not all(each is None or each in self.constant for each in (weight, bias, mean, variance)):
            return
        path = str(mean.target).removeprefix(f"{ROOT}.").rpartition(".")[0] if mean.op == "get_attr" else ""
        path = path or f"{node.name}"
        if path not in self.root:
            average = self._value(mean)
            norm = _NORMS[rank](len(average), eps, affine=weight is not None, device="meta")
            norm.running_mean, norm.running_var = average, self._value(variance)
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long)
            if weight is not None:
                norm.weight = nn.Parameter(self._value(weight).detach())
                shift = self._value(bias).detach() if bias is not None else torch.zeros_like(norm.weight)
                norm.bias = nn.Parameter(shift)
            self.root[path] = norm
        self._call(node, path, x)

    def _layer(self, weight: fx.Node, bias: Any, views: tuple[View, ...], geometry: Any = None) -> str:
        """The path of the layer that has this weight."""
        origin, made = self._origin(weight), ""
        if origin is None:  # computed from parameters: in evaluation a constant
            first = next(filter(self._is_parameter, self._roots(weight)))
            origin, made = Origin(str(first.target).removeprefix(f"{ROOT}."), computed=True), self._expression(weight)
        key = (origin, made, views, bias, str(geometry))
        if key not in self.known:
            origin = self._owned(origin, bias)
            base = origin.parameter.removesuffix(".weight").removesuffix("_weight") or "weight"
            part = origin.views or any(function is torch.select for function, _ in views)
            path, count = f"{base}_0" if part else base, 0
            while path in self.known.values() or path in self.root:
                count += 1
                path = f"{base}_{count}"
            self.known[key] = path
            shift = self._origin(bias) if isinstance(bias, fx.Node) else None
            owner = origin.parameter.rpartition(".")[0]
            takes = isinstance(self.model.get_submodule(owner), nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            plain = takes and bias is None and not origin.views
            views = (*origin.views, *views)
            self.origins[path] = replace(origin, views=views, bias=shift, module=owner if plain else None)
        return self.known[key]

    def _expression(self, node: fx.Node) -> str:
        """What tells whether two constants are the same value."""
        if node.op == "get_attr":
            return str(node.target)
        return f"{node.target}{fx.node.map_arg((node.args, node.kwargs), self._expression)}"

    def _owned(self, origin: Origin, bias: Any) -> Origin:
        """The parameter as the module with this bias has it, where modules share a weight and not their biases."""
        beside = self._origin(bias) if isinstance(bias, fx.Node) else None
        if beside is None:
            return origin
        owner = beside.parameter.rpartition(".")[0]
        path = f"{owner}.{origin.parameter.rpartition('.')[2]}"
        shared = owner and getattr(self.model.get_submodule(owner), path.rpartition(".")[2], None)
        return replace(origin, parameter=path) if shared is _attribute(self.model, origin.parameter) else origin

    def _origin(self, node: fx.Node) -> Origin | None:
        """The parameter that a constant is a view of."""
        if node.op == "get_attr":
            path = str(node.target).removeprefix(f"{ROOT}.")
            return Origin(path) if isinstance(_attribute(self.module, str(node.target)), nn.Parameter) else None
        if not node.args or not isinstance(node.args[0], fx.Node) or len(node.all_input_nodes) != 1 or node.kwargs:
            return None
        before = self._origin(node.args[0])
        value = self._value(node)
        if before is None or (isinstance(value, Tensor) and value._base is None):
            return None
        function: Any = node.target
        return replace(before, views=(*before.views, (function, tuple(node.args[1:]))))

    def _put(self, path: str, module: nn.Module, weight: Tensor, bias: Any) -> None:
        module.weight = nn.Parameter(weight.detach(), requires_grad=False)
        if bias is not None:
            module.bias = nn.Parameter(self._value(bias).detach().expand(len(weight)), requires_grad=False)
        self.root[path] = module

    def _call(self, node: fx.Node, path: str, x: Any) -> None:
        self._replace(node, self._module(node, path, x))

    def _path(self, node: fx.Node) -> str:
        """The module in which a node was, or the node's name."""
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        return (stack[-1].removeprefix(ROOT).removeprefix(".") if stack else "") or node.name


def _name(node: fx.Node) -> str:
    """Of an ATen function, without its overload."""
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def _draws(node: fx.Node) -> bool:
    """Whether an ATen function draws random numbers."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _picked(node: Any) -> tuple[Any, Any]:
    """The tensor from whose first axis a node chooses by numbers, and the numbers; None if it does not."""
    given: Any = node.args if isinstance(node, fx.Node) else ()
    name = _name(node) if given else ""
    if name == "index" and len(given[1]) == 1:
        return given[0], given[1][0]
    return (given[0], given[2]) if name == "index_select" and given[1] == 0 else (None, None)


def _turned(node: fx.Node, rank: int) -> list[int]:
    """The axes of what a node transposes, in the order of its result."""
    order, given = list(range(rank)), node.args[1:]
    if _name(node) == "permute":
        return [int(axis) % rank for axis in given[0]]  # type: ignore[union-attr,arg-type]
    if _name(node) == "numpy_T":
        return order[::-1]
    one, other = (int(axis) for axis in given) if given else (-1, -2)  # type: ignore[arg-type]
    order[one], order[other] = order[other], order[one]
    return order


def is_open(size: Any) -> bool:
    """Whether a size was left open when a model was traced."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _writes(node: fx.Node) -> bool:
    """Whether an ATen function changes what it is given: its result may not be read, and yet it matters."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _attribute(module: nn.Module, path: str) -> Any:
    return operator.attrgetter(path)(module)


def _arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[Any]:
    """A call's arguments in the order of their names, defaults for the last ones that are left out."""
    values = dict(zip(reversed(names), reversed(defaults), strict=False))
    values |= dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return [values[name] for name in names]


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * dimensions if len(values) == 1 else values)
