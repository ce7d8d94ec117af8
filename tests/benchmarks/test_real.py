"""benchmarks/real.py: a small pretrained network keeps its accuracy; points are kept, taken up again, and tabled."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prap_pim.common.errors import UserError
from prap_pim.common.files import read_json

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MISSING = [name for name in ("facenet_pytorch", "skimage") if find_spec(name) is None]
needs_faces = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (`make test` installs facenet-pytorch and scikit-image)"
)


def _module(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module(name)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module(monkeypatch, "real")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module(monkeypatch, "real_tables")


@needs_faces
def test_a_pretrained_network_keeps_its_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """MTCNN's O-Net, bit-true, on faces and other pictures that it was not calibrated with."""
    point = _module(monkeypatch, "real_point")

    def measured(**how: Any) -> dict[str, Any]:
        found: dict[str, Any] = point.measure(point.Request(network="onet", calibration=20, **how))
        return found

    accuracy = measured(method="float")["scores"]["accuracy"]
    assert accuracy > 0.98
    dense = measured(method="dense")
    assert dense["bit_true"]
    assert dense["scores"]["accuracy"] >= accuracy - 0.005
    for ratio in (0.5, 0.25):
        found = measured(compute_ratio=ratio)
        assert 0.9 * ratio < found["compute_ratio"] <= ratio
        assert found["scores"]["accuracy"] >= accuracy - 0.01
        for chip, cost in found["costs"].items():
            for figure, value in cost.items():
                assert value < dense["costs"][chip][figure], (chip, figure)


@needs_faces
def test_points_are_kept_and_taken_up_again(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tmp_path / "points.json"
    few = ["--networks", "onet", "--calibration", "8", "--test", "20", "--threads", "1", "--points", str(points)]
    benchmark.main([*few, "--methods", "dense"])
    (dense,) = read_json(points)
    assert (dense["method"], dense["inputs"]) == ("dense", {"calibration": 8, "test": 20})
    assert dense["gib"]["peak"] >= dense["gib"]["float"] > 0

    started: list[str] = []

    def instead(request: dict[str, Any], limit: float) -> dict[str, Any]:
        started.append(request["method"])
        return {"error": "not now"}

    monkeypatch.setattr(benchmark, "in_a_process", instead)
    both = [*few, "--methods", "orc", "dense", "--ratios", "1/4", "--cached"]
    benchmark.main(both)
    assert started == ["orc"]
    assert "orc 1/4: not now" in capsys.readouterr().out
    assert [point.get("error") for point in read_json(points)] == [None, "not now"]  # kept, not hidden
    threads = few.index("--threads")
    benchmark.main([*both[:threads], *both[threads + 2 :]])
    assert started == ["orc"]  # those of one thread will do
    benchmark.main([*both, "--threads", "3"])
    assert started == ["orc", "dense", "orc"]
    started.clear()
    monkeypatch.setattr(benchmark, "source_digest", lambda: "other")
    benchmark.main(both)
    assert started == ["dense", "orc"]  # stale
    assert [(point["source"], point["threads"]) for point in read_json(points) if point["threads"] == 1] == [
        ("other", 1),
        ("other", 1),
    ]


def test_any_method_with_any_settings(benchmark: ModuleType) -> None:
    def wanted(*arguments: str) -> list[dict[str, Any]]:
        options = benchmark._parser().parse_args(["--networks", "onet", *arguments])
        found: list[dict[str, Any]] = list(benchmark._wanted(options, benchmark._settings(options.set)))
        return found

    one, other = wanted(
        "--method", "calibrated", "lowbit", "--set", "bits=[4, 3]", "--set", "mimic=0", "--ratios", "1/2"
    )
    assert (one["method"], other["method"]) == ("calibrated", "lowbit")
    for request in (one, other):
        assert request["compute_ratio"] == 0.5
        assert request["options"] == {"bits": [4, 3], "mimic": 0}
    (uniform,) = wanted("--method", "lowbit", "--set", "bits=[4]", "compute_ratio=null")
    assert (uniform["ratio"], uniform["compute_ratio"], uniform["options"]) == ("1", None, {"bits": [4]})
    for mistake in ("bits", "bits=[4", "compute_ratio=0.3"):
        with pytest.raises(UserError, match="--set"):
            wanted("--set", mistake)


def test_only_code_makes_a_point_stale(benchmark: ModuleType) -> None:
    said = "def f(x):\n    return x + 1\n"
    told = '"""A module."""\ndef f(x):\n    """Adds."""\n    return x + 1  # one more\n'
    assert benchmark._code(told).replace("pass", "").split() == benchmark._code(said).split()
    assert benchmark._code(said) != benchmark._code(said.replace("1", "2"))
    refused = "if x < 0:\n    raise ValueError('x') from None\n"
    assert benchmark._code(refused) == benchmark._code(refused.replace("'x'", "f'x is {x}'"))
    assert benchmark._code(refused) != benchmark._code(refused.replace("<", ">"))


def test_a_process_that_fails_leaves_its_error(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "CHILD", tmp_path / "child.py")
    for code, error in {
        "raise MemoryError('no more')": "exit code 1: MemoryError: no more",
        "import os; os.kill(os.getpid(), 9)": "killed by signal 9: no message",
        "import time; time.sleep(60)": "stopped after 2 s",
    }.items():
        (tmp_path / "child.py").write_text(code)
        assert benchmark.in_a_process({"threads": 1}, 2) == {"error": error}


def _point(method: str, ratio: str, accuracy: float, energy: float = 1.0, **more: Any) -> dict[str, Any]:
    cost = {"energy_j": energy, "serial_latency_s": 2 * energy**2, "pipelined_latency_s": 3.0}
    costs = (
        {}
        if method == "float"
        else {"compute_ratio": energy, "costs": dict.fromkeys(("isaac-32nm", "prap-2023"), cost)}
    )
    return {
        "network": "onet",
        "method": method,
        "ratio": ratio,
        "options": {},
        "calibration": 80,
        "test": 320,
        "seed": 0,
        "threads": 2,
        "source": "new",
        "kind": "PyTorch",
        "packages": {"facenet-pytorch": "2.6.0"},
        "inputs": {"calibration": 8, "test": 20},
        "scores": {"accuracy": accuracy},
        "seconds": {"float": 1.0, "compress": 12.4},
        "gib": {"float": 0.5, "peak": 1.25},
        **costs,
        **more,
    }


def test_the_page_by_hand(tables: ModuleType) -> None:
    failed = {**_point("orc", "1/8", 0), "error": "out of reach"}
    del failed["scores"]
    points = [
        _point("float", "1", 0.975),
        _point("dense", "1", 0.97),
        _point("calibrated", "1/2", 0.95, 0.5),
        _point("calibrated", "1/2", 0.94, 0.5, options={"shapes": 4}),
        _point("calibrated", "1/4", 0.9, 0.25, source="old", bit_true=False),
        _point("calibrated", "1/8", 0.1, 0.125, test=20),
        _point("calibrated", "1/2", 0.96, 0.5, threads=1),
        _point("orc", "1/2", 0.8, 0.5, threads=1),
        _point("lowbit", "1/2", 0.93, 0.5),
        _point("lowbit", "1", 0.92, 0.5, options={"bits": [4]}),
        failed,
    ]
    lines = tables.document(points, "new").splitlines()
    assert (
        lines.count(
            "| MTCNN O-Net | detects faces in 48x48 pictures, with landmarks | accuracy | 97.5 % | 97.0 % "
            "| 95.0 % | 90.0 % * | 93.0 % |"
        )
        == 1
    )
    gains = "2.00x / 4.00x / 1.00x"
    assert f"| calibrated | 1/2 | 0.500 | 95.0 % | {gains} | {gains} |  | 12 | 1.25 (0.50) |" in lines
    assert any(line.startswith("| calibrated (shapes=4) | 1/2 | 0.500 | 94.0 % |") for line in lines)
    assert any(line.startswith("| lowbit (bits=[4]) | 1 | 0.500 | 92.0 % |") for line in lines)
    assert any(line.startswith("| calibrated (float activations) * | 1/4 |") for line in lines)
    assert lines.count("| MTCNN O-Net | calibrated 1/2 | accuracy | 96.0 % | 95.0 % |") == 1
    assert f"| orc | 1/2 | 0.500 | 80.0 % | {gains} | {gains} |  | 12&sup1; | 1.25 (0.50) |" in lines
    assert "- orc 1/8: out of reach" in lines
    assert any("facenet-pytorch 2.6.0. Licence: MIT. 8 calibration inputs, 20 test inputs." in line for line in lines)
    assert not any("10.0 %" in line for line in lines)  # measured on other numbers of inputs


def test_what_networks_need_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = _module(monkeypatch, "real_networks")
    root = BENCHMARKS.parent
    locked = {line.partition("==")[0] for line in (root / "constraints.txt").read_text().splitlines()}
    installed = (root / "Makefile").read_text()
    for name in networks.NAMES:
        for package in networks.network(name).packages:
            assert package in locked
            assert package in installed


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    base = _module(monkeypatch, "real_networks.base")
    with pytest.raises(UserError, match="no_such_package is not installed"):
        base.package_folder("no_such_package")


def test_edits_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = _module(monkeypatch, "real_networks.text_recogniser")
    assert recogniser.edits("kitten", "sitting") == 3
    assert recogniser.edits("", "abc") == 3
    assert recogniser.edits("abc", "abc") == 0


def test_matching_boxes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = _module(monkeypatch, "real_networks.text_detector")
    box, half, away = (0, 0, 10, 10), (0, 0, 5, 10), (20, 20, 30, 30)
    assert detector.f1([[box]], [[half]]) == 1  # overlap of exactly one half
    assert detector.f1([[box, box]], [[box]]) == pytest.approx(2 / 3)  # a line is matched once
    assert detector.f1([[box], []], [[away], [box]]) == 0


def test_the_readme_shows_the_points_that_are_there(tables: ModuleType, benchmark: ModuleType) -> None:
    assert tables.front(read_json(benchmark.POINTS)) in (BENCHMARKS.parent / "README.md").read_text()


def test_the_short_table_by_hand(tables: ModuleType) -> None:
    """Gains: 6 J of dense over 3 and 2; of two numbers of threads the larger counts."""

    def point(
        method: str, ratio: str, score: float, threads: int = 1, energy: float = 6.0, **more: Any
    ) -> dict[str, Any]:
        net = importlib.import_module("real_networks").network("magika")
        costs = dict.fromkeys(("energy_j", "serial_latency_s", "pipelined_latency_s"), energy)
        chips = {"isaac-32nm": costs, "prap-2023": costs, "isaac-32nm, gather": {**costs, "energy_j": energy / 1.5}}
        return {
            **{"network": "magika", "method": method, "ratio": ratio, "options": {}, "seed": 0, "threads": threads},
            **{"calibration": net.calibration, "test": net.test, "source": "", "scores": {"accuracy": score}},
            **({} if method == "float" else {"costs": chips}),
            **more,
        }

    given = [
        point("float", "1", 0.9),
        point("dense", "1", 0.89),
        point("lowbit", "1/2", 0.88, energy=4.0),
        point("calibrated", "1/4", 0.5, energy=1.0),
        point("calibrated", "1/4", 0.87, threads=2, energy=3.0),
        point("calibrated", "1/4", 0.1, options={"uses": 1}),
    ]
    last = tables.front(given).splitlines()[-1]
    assert last == ("| Magika: accuracy | 90.0 % | 89.0 % | 88.0 % (1.50x / 2.25x) | 87.0 % (2.00x / 3.00x) | - |")
