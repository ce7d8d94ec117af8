"""Networks of the user's own: a function, an ONNX file, or a folder or checkpoint of a library of networks."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.imports import Import
from prap_pim.common.settings import Settings
from prap_pim.training.models.registry import builder


class ImportedModel(Import):
    """What the user's function gives: a module, with weights of its own or random ones (``checkpoint``)."""

    name: Literal["import"] = "import"


class GivenModel(Settings):
    """A module that a program gave, which no configuration can make again."""

    name: Literal["given"] = "given"
    kind: str  # what it is called


class OnnxModel(Settings):
    """An ONNX file."""

    name: Literal["onnx"] = "onnx"
    onnx: Path


class TransformersModel(Settings):
    """A folder as ``save_pretrained`` writes it, with safetensors; no code that lies in it is run."""

    name: Literal["transformers"] = "transformers"
    transformers: Path
    head: str = "AutoModel"  # the class of transformers that reads it, as AutoModelForCausalLM


class TimmModel(Settings):
    """A network of timm, by name; its weights are those of ``checkpoint``."""

    name: Literal["timm"] = "timm"
    timm: str
    arguments: dict[str, Any] = Field(default={})


class TorchvisionModel(Settings):
    """A network of torchvision, by name; its weights are those of ``checkpoint``."""

    name: Literal["torchvision"] = "torchvision"
    torchvision: str
    arguments: dict[str, Any] = Field(default={})


OWN = (ImportedModel, GivenModel, OnnxModel, TransformersModel, TimmModel, TorchvisionModel)


@builder.register
def _(config: ImportedModel, in_channels: int, classes: int) -> nn.Module:
    found = config.load("model")()
    if not isinstance(found, nn.Module):
        raise UserError(f"model: import {config.function} gave {type(found).__name__}, not a torch.nn.Module")
    return found


@builder.register
def _(config: TransformersModel, in_channels: int, classes: int) -> nn.Module:
    transformers = _package("transformers", "transformers")
    if not (config.transformers / "config.json").is_file():
        raise UserError(f"model: {config.transformers} is not a folder of save_pretrained: it holds no config.json")
    head = getattr(transformers, config.head, None)
    if head is None:
        raise UserError(f"model: transformers has no class {config.head!r}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers.utils.logging.disable_progress_bar()
    try:
        found: nn.Module = head.from_pretrained(
            str(config.transformers), local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # of many kinds
        raise UserError(f"model: transformers cannot read {config.transformers}: {one_line(error)}") from error
    settings: Any = found.config
    settings.use_cache = False  # what a decoder keeps for the next token is no output
    return found


@builder.register
def _(config: TimmModel, in_channels: int, classes: int) -> nn.Module:
    return _of_library("timm", config.timm, _package("timm", "timm").create_model, config.arguments)


@builder.register
def _(config: TorchvisionModel, in_channels: int, classes: int) -> nn.Module:
    models = _package("torchvision.models", "torchvision")
    return _of_library("torchvision", config.torchvision, models.get_model, config.arguments)


def _of_library(library: str, name: str, make: Any, arguments: dict[str, Any]) -> nn.Module:
    try:
        found: nn.Module = make(name, **arguments)
    except Exception as error:  # of many kinds
        raise UserError(f"model: {library} cannot make {name!r}: {one_line(error)}") from error
    return found


def _package(module: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"model: {extra} is not installed: pip install 'prap-pim[{extra}]'") from error
    except RuntimeError as error:  # torchvision, which timm needs, is built for one version of torch and its devices
        raise UserError(f"model: {extra} does not fit the torch that is installed: {one_line(error)}") from error


class OnnxNetwork(nn.Module):
    """The network of an ONNX file: takes its inputs in order, gives its outputs."""

    def __init__(self, file: Any, batches: Sequence[Sequence[Tensor]]) -> None:
        """
        Args:
            file: an ``OnnxFile``.
            batches: of its inputs.
        """
        super().__init__()
        from prap_pim.frontend.onnx.branches import as_called, for_sizes
        from prap_pim.frontend.onnx.lower import capture_onnx

        called = for_sizes(as_called(file, {}, {}), [tuple(batches[0]), tuple(batches[-1])])
        self.captured = capture_onnx(called, batches[0]).captured

    def forward(self, *inputs: Tensor) -> Any:
        return self.captured.module(*inputs)
