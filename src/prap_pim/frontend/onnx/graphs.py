"""What nodes of an ONNX graph read, and the graphs inside of them."""

from collections.abc import Iterator, Mapping, Sequence

from onnx import GraphProto, NodeProto

_PASSING = frozenset({"Reshape", "Flatten", "Transpose", "Identity", "Squeeze", "Unsqueeze", "MaxPool"})


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside a node (of If, Loop, Scan), and those inside them."""
    for graph in own_graphs(node):
        yield graph
        for each in graph.node:
            yield from inner_graphs(each)


def reads(node: NodeProto) -> list[str]:
    """Names of the values that a node reads, those included that graphs inside it take from outside."""
    names = dict.fromkeys(name for name in node.input if name)
    for graph in own_graphs(node):
        own = {each.name for each in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            names.update(dict.fromkeys(name for name in reads(inner) if name not in own))
            own.update(inner.output)
        names.update(dict.fromkeys(each.name for each in graph.output if each.name not in own))
    return list(names)


def own_graphs(node: NodeProto) -> list[GraphProto]:
    """The graphs inside a node, without those inside them."""
    return [graph for each in node.attribute for graph in ([each.g] if each.HasField("g") else each.graphs)]


def kept_back(value: str, maker: Mapping[str, int], nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """The node that made a value, and before it, while they only pass values on, the nodes that made those."""
    while value in maker:
        node = nodes[maker[value]]
        yield node
        if node.op_type not in _PASSING:
            return
        value = node.input[0]
