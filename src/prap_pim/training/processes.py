"""The processes that train one network together, through Lightning Fabric; most often there is one."""

import atexit
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from prap_pim.common.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PATIENCE = timedelta(days=365)  # while the first process compresses; one that has ended is noticed at once


class Lost(UserError):
    """Another process cannot be reached, most likely because it has ended."""


class Processes:
    """What one of the processes that train together knows of the others.

    The first one holds the network and leads; the others compute what it asks for (see ``Descent``). What goes between
    them is plain bytes, nothing is unpickled.

    Attributes:
        index: of this process, 0 .. count - 1.
        count: of them all.
        arithmetic: what figures depend on, beside the settings: accelerator and precision.
    """

    def __init__(self, accelerator: str = "cpu", precision: str = "32-true", devices: int = 1, nodes: int = 1) -> None:
        """Find the other processes, if there are any; returns when all are there.

        Args:
            accelerator: "cpu", "cuda", or "auto": GPUs where there are any.
            precision: "32-true", or "bf16-mixed": products in bfloat16, weights and sums of gradients in float32.
            devices: processes on each machine; each takes a GPU of its own.
            nodes: machines. With more than one process torchrun's environment variables must say who this one is.

        Raises:
            UserError: there are too few GPUs, or the processes cannot be connected.
        """
        gpus = torch.cuda.device_count()
        if accelerator == "auto":
            accelerator = "cuda" if gpus else "cpu"
        if accelerator == "cuda" and gpus < devices:
            raise UserError(f"{devices} GPUs are asked for with --devices, this machine has {gpus}")
        self.count, self._devices, self._nodes = devices * nodes, devices, nodes
        self.arithmetic = {"accelerator": accelerator, "precision": precision}
        self.index: int = self.fabric.global_rank if self.count > 1 else 0

    @cached_property
    def fabric(self) -> "Fabric":
        """Where this process computes, and with which precision."""
        # imported here: that takes seconds, and most processes train nothing
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment

        from prap_pim.training.joined import Joined

        options: dict[str, Any] = {**self.arithmetic, "devices": self._devices}
        if self.count > 1:
            options |= {"num_nodes": self._nodes, "strategy": Joined(), "plugins": [LightningEnvironment()]}
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # it tells that it connects
        with warnings.catch_warnings(), _threads_kept():
            warnings.simplefilter("ignore")  # Fabric warns about how its own environment was started
            try:
                fabric = Fabric(**options)
                if self.count > 1:
                    fabric.launch()
                    self._group: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE)
                    atexit.register(self._leave)
            except (RuntimeError, ValueError, OSError) as error:
                raise UserError(f"the processes cannot be connected: {str(error).splitlines()[0]}") from error
        return fabric

    @property
    def first(self) -> bool:
        """Whether this process leads."""
        return self.index == 0

    def tell(self, message: dict[str, Any], attachment: bytes = b"") -> None:
        """From the first process to all others, which ``receive`` it."""
        if self.count > 1:
            text = json.dumps(message).encode()
            sizes = torch.tensor([len(text), len(attachment)])
            with _reaching():
                distributed.broadcast(sizes, 0, self._group)
                distributed.broadcast(torch.frombuffer(bytearray(text + attachment), dtype=torch.uint8), 0, self._group)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """What the first process sends, however long that takes.

        Raises:
            Lost: it cannot be reached.
        """
        sizes = torch.zeros(2, dtype=torch.int64)
        with _reaching():
            distributed.broadcast(sizes, 0, self._group)
            content = torch.empty(int(sizes.sum()), dtype=torch.uint8)
            distributed.broadcast(content, 0, self._group)
        whole, end = content.numpy().tobytes(), int(sizes[0])
        return dict(json.loads(whole[:end])), whole[end:]

    def share(self, values: Tensor) -> Tensor:
        """The first process's bytes, uint8 [n], in every process; others pass any of that size.

        Raises:
            Lost: a process cannot be reached.
        """
        if self.count > 1:
            with _reaching():
                distributed.broadcast(values, 0, self._of(values))
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """The bytes, uint8 [n], of all processes in their order, in the first one; nothing in the others.

        Raises:
            Lost: a process cannot be reached.
        """
        if self.count == 1:
            return [values]
        every = [torch.empty_like(values) for _ in range(self.count)] if self.first else None
        with _reaching():
            distributed.gather(values, every, 0, self._of(values))
        return every or []

    def _leave(self) -> None:
        """End gloo's threads while Python still runs: one that lets go of a tensor after that aborts the process."""
        self._group = None
        distributed.destroy_process_group()

    def _of(self, values: Tensor) -> Any:
        """Who carries them: gloo what is in main memory, NCCL what is on GPUs."""
        return None if values.is_cuda else self._group


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Fabric divides the cores among the processes of a machine; here that is the run's affair (``Manifest``)."""
    threads, told = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if told is None:
            os.environ.pop("OMP_NUM_THREADS", None)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of torch, for whatever goes wrong on the way
        raise Lost(f"the connection to another process was lost: {str(error).splitlines()[0]}") from error


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads share torch's sums of floats, which depend on how many they are, until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
