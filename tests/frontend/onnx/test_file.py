"""Files that are no valid model, or point where they must not, end in one line; nothing outside is opened."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from prap_pim.common.errors import UserError
from prap_pim.frontend.onnx import OnnxFile, capture_onnx
from tests.frontend.onnx.models import CASES, Case, node, random, save, tied


def refused(path: Path) -> str:
    """The line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        OnnxFile.read(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


def dense() -> Case:
    return Case([node("MatMul", "x w", "y")], {"w": random(5, 6)}, {"x": random(4, 5)})


def test_weights_are_read_as_they_are(tmp_path: Path) -> None:
    case = tied()
    for external in (False, True):
        path = save(case, tmp_path, external=external)
        file = OnnxFile.read(path)
        assert bool(file.external) == external
        assert set(file.weights) == set(case.weights)
        for name, value in case.weights.items():
            np.testing.assert_array_equal(file.weights[name], value)
            assert file.weights[name].dtype == value.dtype


def test_weights_do_not_change_with_their_file(tmp_path: Path) -> None:
    case = tied()
    file = OnnxFile.read(save(case, tmp_path, external=True))
    for path in file.external:
        with path.open("rb+") as opened:  # in place: a mapped file would show it
            opened.write(bytes(path.stat().st_size))
    for name, value in case.weights.items():
        np.testing.assert_array_equal(file.weights[name], value)


def test_there_is_no_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.onnx")
    assert "Is a directory" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "it is no plain file" in refused(tmp_path / "pipe")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Neither onnx nor onnxruntime can open it."""
    path = tmp_path / os.fsdecode(b"m\xff.onnx")
    path.write_bytes(save(dense(), tmp_path).read_bytes())
    assert "must be UTF-8 text" in refused(path)


@pytest.mark.parametrize("name", ["tied", "control flow"])
def test_a_truncated_file(name: str, tmp_path: Path) -> None:
    """Whatever its length: refused, or it was whole without what is missing (nothing here is)."""
    path = save(CASES[name](), tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in sorted({0, 1, 2, 10, len(whole) - 1, *rng.integers(0, len(whole), 120).tolist()}):
        path.write_bytes(whole[:length])
        try:
            refused(path)
        except pytest.fail.Exception:
            model = onnx.load(path)  # valid by the standard's own checker: the end of the file said nothing of import
            assert len(model.graph.node) == len(onnx.load_model_from_string(whole).graph.node)


def test_random_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "model.onnx"
    for size in (1, 10, 100, 1000, 100_000):
        path.write_bytes(rng.bytes(size))
        refused(path)


@pytest.mark.parametrize("name", ["convolutions", "gemms", "sizes"])
def test_changed_bytes(name: str, tmp_path: Path) -> None:
    """A file with wrong bytes somewhere is refused in one line, or is a model all the same."""
    case = CASES[name]()
    path = save(case, tmp_path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(2)
    refusals = 0
    for _ in range(60):
        damaged = whole.copy()
        at = rng.integers(0, len(whole), 2)
        damaged[at] = rng.integers(0, 256, 2)
        path.write_bytes(damaged.tobytes())
        try:
            capture_onnx(OnnxFile.read(path), case.tensors())
        except UserError:
            refusals += 1
    assert refusals > 10


def with_external(folder: Path, **entries: str) -> Path:
    """A model whose weight is said to lie in another file."""
    path = save(dense(), folder, external=True)
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    known = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in known.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"location": "../x"}, "no path inside"),
        ({"location": "/etc/passwd"}, "no path inside"),
        ({"location": "a/../../x"}, "no path inside"),
        ({"location": ""}, "no path inside"),
        ({"location": "a\0b"}, "no path inside"),
        ({"location": "none.bin"}, "no such file"),
        ({"location": "link.bin"}, "leads out of"),
        ({"location": "folder/x"}, "leads out of"),
        ({"location": "."}, "no such file"),
        ({"offset": "-4"}, "no number from 0 on"),
        ({"offset": "1e3"}, "no number from 0 on"),
        ({"offset": "4"}, "ends before the weight does"),
        ({"offset": "9" * 19}, "ends before the weight does"),
        ({"offset": "9" * 400}, "no number from 0 on"),
        ({"length": "7"}, "with 7 bytes, but its shape"),
        ({"length": "-1"}, "no number from 0 on"),
    ],
)
def test_weights_outside(entries: dict[str, str], why: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"\0" * 1000)
    (tmp_path / "x").write_bytes(b"\0" * 1000)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "x")
    (folder / "folder").symlink_to(tmp_path / "outside")
    assert why in refused(with_external(folder, **entries))


def test_tensors_everywhere_are_looked_at(tmp_path: Path) -> None:
    """A path that leads out is found in a Constant node, inside of If, and in a function."""
    bad = TensorProto(name="bad", data_type=1, dims=[5, 6], data_location=TensorProto.EXTERNAL)
    bad.external_data.add(key="location", value="../x")
    constant = helper.make_node("Constant", [], ["w"], value=bad)
    out = helper.make_tensor_value_info("w", 1, [5, 6])
    inside = helper.make_node("If", ["c"], ["w"], then_branch=helper.make_graph([constant], "a", [], [out]))
    inside.attribute.append(helper.make_attribute("else_branch", inside.attribute[0].g))
    function = helper.make_function("mine", "F", ["x"], ["w"], [constant], [helper.make_opsetid("", 17)])
    called = helper.make_node("F", ["x"], ["w"], domain="mine")
    info = helper.make_tensor_value_info("x", 1, ["n", 5]), helper.make_tensor_value_info("y", 1, ["n", 6])
    for first, functions in ((constant, []), (inside, []), (called, [function])):
        graph = helper.make_graph([first, node("MatMul", "x w", "y")], "g", [info[0]], [info[1]])
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        model = helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        assert "no path inside" in refused(tmp_path / "model.onnx")


def edited(folder: Path, edit: Callable[[onnx.ModelProto], object]) -> Path:
    path = save(dense(), folder)
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_models_that_are_not_valid(tmp_path: Path) -> None:
    def initial(model: onnx.ModelProto) -> TensorProto:
        return model.graph.initializer[0]

    edits: dict[str, Callable[[onnx.ModelProto], object]] = {
        "huge": lambda model: initial(model).dims.__setitem__(0, 1 << 60),
        "negative": lambda model: initial(model).dims.__setitem__(0, -5),
        "type": lambda model: setattr(initial(model), "data_type", 77),
        "twice": lambda model: model.graph.initializer.append(initial(model)),
        "operator": lambda model: setattr(model.graph.node[0], "op_type", "NoSuch"),
        "reads nothing": lambda model: model.graph.node[0].input.__setitem__(1, "none"),
        "no output": lambda model: model.graph.output.__delitem__(0),
        "opset": lambda model: setattr(model.opset_import[0], "version", 8),
        "no opset": lambda model: model.opset_import.__delitem__(0),
        "ir": lambda model: setattr(model, "ir_version", 0),
        "circle": lambda model: model.graph.node[0].input.__setitem__(0, "y"),
    }
    for name, edit in edits.items():
        try:
            line = refused(edited(tmp_path, edit))
        except pytest.fail.Exception:  # what the checker lets pass is refused when it is run
            with pytest.raises(UserError) as caught:
                capture_onnx(OnnxFile.read(tmp_path / "model.onnx"), dense().tensors())
            line = str(caught.value)
        assert line, name
        assert len(line) < 500


def test_an_unknown_domain(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = "somebody.else"
        model.opset_import.append(helper.make_opsetid("somebody.else", 1))

    file = OnnxFile.read(edited(tmp_path, edit))
    with pytest.raises(UserError, match=r"node /y/MatMul \(MatMul\): onnxruntime does not take it"):
        capture_onnx(file, dense().tensors())


def test_names_that_a_terminal_would_obey(tmp_path: Path) -> None:
    line = refused(with_external(tmp_path, location="../\x1b[2J"))
    assert "\x1b" not in line


def test_an_attribute_that_is_no_text(tmp_path: Path) -> None:
    case = Case([node("Conv", "x w", "y", auto_pad="VALID")], {"w": random(2, 3, 3)}, {"x": random(2, 3, 9)})
    path = save(case, tmp_path)
    path.write_bytes(path.read_bytes().replace(b"VALID", b"V\xd5LID"))
    with pytest.raises(UserError, match="onnxruntime does not take it"):
        capture_onnx(OnnxFile.read(path), case.tensors())
