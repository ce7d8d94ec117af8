"""The harness of benchmarks/large.py on a small Llama; and that half precision takes no float32 copy of the weights."""

import argparse
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import prap_pim
from prap_pim.frontend import capture
from prap_pim.ir.network import StoredWeight
from prap_pim.methods import compress

pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOKENS = {"input_ids": torch.arange(24).reshape(2, 12)}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("large")
    monkeypatch.setattr(found, "_VOCABULARY", 96)
    return found


@pytest.fixture
def folder(benchmark: ModuleType, tmp_path: Path) -> Path:
    return benchmark.written(tmp_path / "llama", 2, 64)


def loaded(folder: Path, kind: torch.dtype) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=kind, use_cache=False)


@pytest.mark.parametrize("method", ["dense", "similar", "lowbit", "calibrated"])
def test_a_folder_is_costed_and_compressed(benchmark: ModuleType, folder: Path, method: str) -> None:
    options = argparse.Namespace(
        sequences=2, tokens=8, within="", blocks=[1] if method == "calibrated" else [], layers=2
    )
    found = benchmark.measured(folder, method, options)
    assert found["weights"] == 2 * 96 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 64 + 3 * 64 * 176 + 2 * 64) + 64
    if method in ("similar", "lowbit"):
        assert found["compute_ratio"] == pytest.approx(0.5, rel=0.01)
    if method == "calibrated":
        assert found["projected_cpu_s"] > found["cpu_s"]


def test_half_precision_is_read_layer_by_layer(folder: Path) -> None:
    model = loaded(folder, torch.bfloat16)
    captured = capture(model, TOKENS, "Llama")
    assert len(captured.network.layers) == 2 * 7 + 1
    for layer in captured.network.layers:
        assert isinstance(layer.weight, StoredWeight)
        own = model.get_parameter(captured.origins[layer.name].parameter).detach().float().numpy()
        np.testing.assert_array_equal(layer.matrix, own)
        assert (layer.weight.shape, layer.weight.size, len(layer.weight)) == (own.shape, own.size, len(own))


def test_the_same_patterns_as_in_float32(folder: Path) -> None:
    """Donors and uses of PRAP's similarity follow from the weights alone, which bf16 holds as float32 does."""
    found = [
        prap_pim.compress(loaded(folder, kind), TOKENS, "similar", keep=0.25, quantize={"equalize": False})
        for kind in (torch.bfloat16, torch.float32)
    ]
    for half, single in zip(*(each.plan.layers.values() for each in found), strict=True):
        for what in ("donors", "use_donor", "use_filter", "use_exponent", "step"):
            np.testing.assert_array_equal(getattr(half, what), getattr(single, what))


def test_integers_that_are_not_kept_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(folder, torch.bfloat16)
    kept = prap_pim.compress(model, TOKENS, "similar", keep=0.5)
    monkeypatch.setattr(compress, "_MOST_KEPT", 0)
    anew = prap_pim.compress(model, TOKENS, "similar", keep=0.5)
    for part in anew.bit_true.modules():
        assert "product" not in vars(part)
    assert anew.check == kept.check
    assert torch.equal(anew.bit_true(**TOKENS).logits, kept.bit_true(**TOKENS).logits)
    assert not any("product" in vars(part) for part in anew.bit_true.modules())
