"""Weights from a user's file: whole, fitting and finite, or one line that says why not."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.frontend.weights import load_weights
from prap_pim.training.checkpoint import Checkpoint
from prap_pim.training.models import ResNet18Config, build


def _network(seed: int) -> nn.Module:
    return nn.Sequential(build(ResNet18Config(width=1), 1, 3, seed))


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _write(kind: str, state: dict[str, Tensor], folder: Path) -> Path:
    path = folder / f"{kind}.pt"
    if kind == "safetensors":
        path = folder / "weights.safetensors"
        safetensors.torch.save_file(state, path)
    elif kind == "checkpoint":
        path = folder / "epoch-00001.safetensors"
        momentum = {"0.classifier.bias": torch.ones(3)}
        Checkpoint(1, "identity", state, momentum).save(path)
    elif kind == "state":
        torch.save(state, path)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": [0.1]}}, path)
    elif kind == "parallel":
        torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, path)
    elif kind == "half":
        torch.save({name: value.half() for name, value in state.items()}, path)
    elif kind == "old":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "uncounted":
        torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "checkpoint", "state", "wrapped", "parallel", "old", "uncounted"])
def test_what_was_saved_is_loaded(kind: str, tmp_path: Path) -> None:
    saved, model = _state(_network(1)), _network(2)
    assert not _equal(saved, _state(model))
    load_weights(model, _write(kind, saved, tmp_path))
    assert _equal(saved, _state(model))


def test_half_precision_becomes_the_models_type(tmp_path: Path) -> None:
    saved, model = _state(_network(1)), _network(2)
    load_weights(model, _write("half", saved, tmp_path))
    loaded = _state(model)
    assert {name: value.dtype for name, value in loaded.items()} == {name: value.dtype for name, value in saved.items()}
    assert torch.equal(loaded["0.stem.conv.weight"], saved["0.stem.conv.weight"].half().float())


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("unpickled"),)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, "evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps(_Evil()))
    torch.save(_network(0), "model.pt")  # a whole model, not its state
    for name in ("evil.pt", "plain.pt", "model.pt"):
        with pytest.raises(UserError, match="nothing else is unpickled") as caught:
            load_weights(_network(0), Path(name))
        assert "\n" not in str(caught.value)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"0.classifier.bias": None}, r"1 weights are missing \(0\.classifier\.bias\)"),
        ({"0.more": torch.ones(1), "0.still": torch.ones(1)}, r"2 are not the network's \(0\.more, \.\.\.\)"),
        ({"0.classifier.bias": torch.ones(4)}, r"0\.classifier\.bias is \[4\], the network's is \[3\]"),
        ({"0.classifier.bias": torch.ones(3, dtype=torch.complex64)}, "complex64"),
        ({"0.classifier.bias": torch.tensor([0.0, torch.nan, 0.0])}, "bias holds NaN"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "state"])
def test_weights_of_another_network(
    kind: str, change: dict[str, Tensor | None], complaint: str, tmp_path: Path
) -> None:
    model = _network(2)
    before = _state(model)
    saved = {name: value for name, value in (_state(_network(1)) | change).items() if value is not None}
    path = _write(kind, saved, tmp_path)
    with pytest.raises(UserError, match=complaint) as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert _equal(before, _state(model))  # as it was


@pytest.mark.parametrize("kind", ["safetensors", "state"])
def test_broken_files(kind: str, tmp_path: Path) -> None:
    path = _write(kind, _state(_network(1)), tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:50], bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot read"):
            load_weights(_network(0), path)
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        load_weights(_network(0), path)
    path.mkdir()
    with pytest.raises(UserError, match="cannot read"):
        load_weights(_network(0), path)


@pytest.mark.parametrize("value", [[1, 2], {"state_dict": 3}, {"weight": "text"}, {3: torch.ones(1)}])
def test_torch_files_of_other_things(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "other.pt")
    with pytest.raises(UserError, match="does not hold a state_dict"):
        load_weights(_network(0), tmp_path / "other.pt")
