"""Checkpoints of training: one safetensors file each, written whole, with nothing in it that is unpickled."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import check_plain, digest_of, write_whole

_FORMAT = "prap-pim checkpoint 1"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that training needs to go on. Random numbers are drawn anew from (seed, epoch), so they have no state.

    Attributes:
        epoch: epochs done since the start of base training.
        identity: digest of what the run was made of (settings, seed, data, network).
        model: the model's state_dict, batch-norm buffers included.
        momentum: the optimiser's momentum by parameter name; whatever else it keeps of a parameter, by "name:what".
            Empty before the first step.
    """

    epoch: int
    identity: str
    model: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]

    @staticmethod
    def of(epoch: int, identity: str, model: nn.Module, momentum: Mapping[str, Tensor]) -> "Checkpoint":
        """A copy of the model's present state."""
        return Checkpoint(epoch, identity, _copies(model.state_dict()), _copies(momentum))

    def restore(self, model: nn.Module) -> None:
        """Put the saved state into ``model``.

        Raises:
            UserError: it is a model of another kind.
        """
        try:
            model.load_state_dict(dict(self.model))
        except RuntimeError as error:
            raise UserError(f"the checkpoint of epoch {self.epoch} is of another network") from error

    def digest(self) -> str:
        """SHA-256 over epoch and every tensor."""
        total = sha256(str(self.epoch).encode())
        for prefix, tensors in (("model", self.model), ("momentum", self.momentum)):
            for name, tensor in sorted(tensors.items()):
                total.update(f"{prefix}.{name}{list(tensor.shape)}".encode())
                total.update(tensor.numpy().tobytes())
        return total.hexdigest()

    def _seal(self) -> str:
        return digest_of(self.identity, self.digest())

    def save(self, path: Path) -> None:
        """Write one file, whole or not at all.

        Raises:
            UserError: it cannot be written; an earlier file there is as it was.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.model.items()}
        tensors |= {f"momentum.{name}": tensor for name, tensor in self.momentum.items()}
        progress = {"epoch": self.epoch, "identity": self.identity, "sha256": self._seal()}
        header = {"format": _FORMAT, "progress": json.dumps(progress)}
        write_whole(path, save(tensors, metadata=header))

    @staticmethod
    def load(path: Path) -> "Checkpoint":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing, damaged, or not a checkpoint.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "momentum": {}}
        check_plain(path)
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != _FORMAT:
                    raise UserError(f"cannot read {path}: it is not a checkpoint of this version ({_FORMAT})")
                progress = json.loads(header["progress"])
                for key in file.keys():  # noqa: SIM118 (the reader is no mapping)
                    part, name = key.split(".", 1)
                    parts[part][name] = file.get_tensor(key)
            checkpoint = Checkpoint(
                int(progress["epoch"]), str(progress["identity"]), parts["model"], parts["momentum"]
            )
            if progress.get("sha256", checkpoint._seal()) != checkpoint._seal():  # earlier versions wrote none
                raise UserError(f"{path} is damaged: it is not what was written")
            return checkpoint
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"cannot read {path}: it is not a whole checkpoint") from error


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense copies on the CPU that share no memory, as safetensors wants them."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one training: the newest, and that of the epoch ``keep``.

    Attributes:
        path: the folder; created when the first checkpoint is written.
        keep: the epoch whose checkpoint is never removed.
    """

    path: Path
    keep: int

    def file(self, epoch: int) -> Path:
        """Where the checkpoint of an epoch is."""
        return self.path / f"epoch-{epoch:05d}.safetensors"

    def epochs(self) -> list[int]:
        """Epochs whose checkpoints are there, ascending."""
        found = (re.fullmatch(r"epoch-(\d{5})\.safetensors", file.name) for file in self.path.glob("epoch-*"))
        return sorted(int(match[1]) for match in found if match)

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove those before it but ``keep``.

        Raises:
            UserError: it cannot be written; the one before is still there.
        """
        checkpoint.save(self.file(checkpoint.epoch))
        for epoch in self.epochs():
            if epoch < checkpoint.epoch and epoch != self.keep:
                self.file(epoch).unlink(missing_ok=True)

    def newest(self, identity: str, until: int) -> Checkpoint | None:
        """The newest whole checkpoint of at most ``until`` epochs; None if there is none.

        Raises:
            UserError: it belongs to a run of other settings, seed, data or network.
        """
        for epoch in reversed(self.epochs()):
            if epoch > until:
                continue
            try:
                checkpoint = Checkpoint.load(self.file(epoch))
            except UserError:
                continue  # damaged: the one before it leads to the same weights
            if checkpoint.identity != identity:
                raise UserError(f"{self.path} holds checkpoints of a run with other settings, seed, data or network")
            return checkpoint
        return None
