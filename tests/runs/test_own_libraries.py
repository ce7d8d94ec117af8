"""Networks of other libraries, from local folders and checkpoints: each beside what its own library computes."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from prap_pim import Compression, UserError
from prap_pim.__main__ import main
from prap_pim.results.run import Results

LENGTH, WORDS = 8, 40


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GPT-2, a tokenizer of words, and a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": LENGTH, "vocab_size": WORDS}
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(folder / "gpt")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, "w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder / "words")
    numbers = np.random.default_rng(0).integers(WORDS, size=1200)
    (folder / "text.txt").write_text(" ".join(f"w{i}" for i in numbers))
    return folder


def run(values: dict[str, Any], folder: Path) -> Results:
    given = {"name": "own", "training": "none", "methods": [{"name": "dense"}], **values}
    folder.mkdir(exist_ok=True)
    (folder / "own.yaml").write_text(yaml.safe_dump(given))
    assert main(["run", str(folder / "own.yaml"), "--output", str(folder / "run"), "--quiet"]) == 0
    return Results.load(folder / "run/results.json")


def test_a_language_model_of_transformers(language: Path, tmp_path: Path) -> None:
    """Its perplexity is what transformers itself computes of the same windows."""
    from transformers import GPT2LMHeadModel

    data = {"name": "text", "files": [str(language / "text.txt")], "tokenizer": str(language / "words"),
            "length": LENGTH, "calibration": 12, "test": 10}  # fmt: skip
    model = {"transformers": str(language / "gpt"), "head": "AutoModelForCausalLM"}
    results = run({"data": data, "model": model}, tmp_path)
    tokens = torch.tensor([int(word[1:]) for word in (language / "text.txt").read_text().split()])
    total = (len(tokens) - 1) // LENGTH
    first = (total - total // 10) * LENGTH
    windows = [tokens[first + i * LENGTH : first + (i + 1) * LENGTH + 1] for i in range(10)]
    theirs = GPT2LMHeadModel.from_pretrained(language / "gpt").eval()
    with torch.no_grad():
        nats = [
            nn.functional.cross_entropy(theirs(window[None, :-1]).logits[0], window[1:]).item() for window in windows
        ]
    assert results.float_metrics["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    assert results.minimize == ["perplexity"]
    assert results.methods[0].bit_true_metrics["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=0.05)
    assert results.images == {"train": total - 2 * (total // 10), "calibration": 12, "test": 10}


def pictures(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for i in range(40):
        place = folder / f"class{i % 4}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


PICTURES = {"name": "images", "size": 16, "resize": 16, "calibration": 12, "test": 8}


def test_a_classifier_of_transformers_on_pictures(tmp_path: Path, capsys: Any) -> None:
    from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    network = ViTForImageClassification(
        ViTConfig(**shape, intermediate_size=16, image_size=16, patch_size=8, num_labels=4)
    )
    network.save_pretrained(tmp_path / "vit")
    data = {**PICTURES, "folder": str(pictures(tmp_path / "pictures"))}
    model = {"transformers": str(tmp_path / "vit"), "head": "AutoModelForImageClassification"}
    results = run({"data": data, "model": model}, tmp_path)
    from prap_pim.runs.config import RunConfig
    from prap_pim.training.data import load

    config = RunConfig.checked(yaml.safe_load((tmp_path / "own.yaml").read_text()), "own")
    images, labels = load(config.data, 0).test.take(torch.arange(8))
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "vit").eval()
    with torch.no_grad():
        right = theirs(images).logits.argmax(1) == labels
    assert results.float_accuracy == float(right.float().mean())
    assert results.classes == 4
    (tmp_path / "vit/config.json").unlink()
    capsys.readouterr()
    assert main(["run", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "no"), "--quiet"]) == 2
    assert "vit is not a folder of save_pretrained: it holds no config.json" in capsys.readouterr().err


class Squeezed(nn.Module):
    """A block as timm has them: depthwise, squeeze and excitation, a shortcut."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.depth, self.squeeze, self.excite = (
            nn.Conv2d(16, 16, 3, 1, 1, groups=16),
            nn.Conv2d(16, 4, 1),
            nn.Conv2d(4, 16, 1),
        )
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.norm(self.stem(x)))
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        out: Tensor = self.head((x + gate * self.depth(x)).mean((2, 3)))
        return out


def create(name: str, num_classes: int = 1000) -> nn.Module:
    """What stands for timm.create_model and torchvision.models.get_model."""
    if name != "squeezed":
        raise RuntimeError(f"Unknown model ({name})")
    return Squeezed(num_classes)


LIBRARIES = {
    "timm": ("timm", SimpleNamespace(create_model=create)),
    "torchvision": ("torchvision.models", SimpleNamespace(get_model=create)),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_network_by_name_with_a_checkpoint(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    module, stand_in = LIBRARIES[library]
    monkeypatch.setitem(sys.modules, module, stand_in)
    if "." in module:
        monkeypatch.setitem(sys.modules, library, SimpleNamespace(models=stand_in))
    torch.manual_seed(0)
    network = Squeezed(4).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    data = {**PICTURES, "folder": str(pictures(tmp_path / "pictures"))}
    model = {library: "squeezed", "arguments": {"num_classes": 4}}
    results = run({"data": data, "model": model, "checkpoint": str(tmp_path / "weights.safetensors")}, tmp_path)
    assert results.weights == "from weights.safetensors"
    assert results.float_accuracy is not None
    assert len(results.methods[0].layers) == 5
    random = run({"data": data, "model": model}, tmp_path / "random")
    assert random.float_accuracy is None
    assert "never trained" in random.weights
    for wrong, message in (("squozen", "cannot make 'squozen': Unknown model"),):
        values = {"name": "x", "model": {library: wrong}, "data": data, "methods": [{"name": "dense"}]}
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(values))
        assert main(["run", str(tmp_path / "wrong.yaml"), "--output", str(tmp_path / "wrong")]) == 2
        assert message in capsys.readouterr().err
    broken = RuntimeError("operator torchvision::nms does not exist")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(broken))
        assert main(["run", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "missing")]) == 2
    said = f"{library} does not fit the torch that is installed: operator torchvision::nms does not exist"
    assert said in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["run", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "missing")]) == 2
    assert f"pip install 'prap-pim[{library}]'" in capsys.readouterr().err


def test_compress_takes_what_model_takes(language: Path, tmp_path: Path, capsys: Any) -> None:
    """A folder of transformers with text; the folder that is left holds all of the compression."""
    from transformers import AutoModel

    command = ["compress", str(language / "gpt"), "--calibration", str(language / "text.txt"), "--tokenizer"]
    command += [str(language / "words"), "--ratio", "0.5", "--output", str(tmp_path / "small")]
    length = ["--plan", str(tmp_path / "plan.safetensors"), "--json"]
    text = f"{{name: text, files: [{language / 'text.txt'}], tokenizer: {language / 'words'}, length: {LENGTH}}}"
    assert main([*command[:3], text, *command[6:], *length]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["compute_ratio"] <= 0.5
    model = AutoModel.from_pretrained(language / "gpt")
    with pytest.raises(UserError, match="the model is traced otherwise than when it was compressed"):
        Compression.load(tmp_path / "small", model)
    model.config.use_cache = False
    found = Compression.load(tmp_path / "small", model)
    assert found.compute_ratio == told["compute_ratio"]
    assert (tmp_path / "plan.safetensors").exists()
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err == "prap-pim: text.txt: 9 windows of 128 tokens are too few, 11 are needed\n"
    for more, message in (
        (["--bit-true", "x.onnx"], "--bit-true: that is for ONNX models"),
        (["--calibration", "nowhere"], "there is no file or folder nowhere"),
        (["--calibration", "{name: digitz}"], "unknown name 'digitz'"),
    ):
        assert main([*command, *more]) == 2
        assert message in capsys.readouterr().err


def test_compress_takes_pictures_for_an_onnx_model(tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(0)
    network = Squeezed(4).eval()
    torch.onnx.export(network, (torch.randn(2, 3, 16, 16),), tmp_path / "m.onnx", dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "n"}})  # fmt: skip
    pictures(tmp_path / "pictures")
    data = f"{{name: images, folder: {tmp_path / 'pictures'}, size: 16, calibration: 24, test: 4}}"
    command = ["compress", str(tmp_path / "m.onnx"), "--ratio", "0.6", "-o", str(tmp_path / "s.onnx"), "--json"]
    assert main([*command, "--calibration", data]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"] == 24
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((24, 3, 16, 16), np.float32))
    other = [
        "compress",
        "{import: nowhere:build}",
        "--calibration",
        str(tmp_path / "data.npz"),
        "-o",
        str(tmp_path / "s"),
    ]
    assert main(other) == 2
    assert "say --allow-imports" in capsys.readouterr().err
