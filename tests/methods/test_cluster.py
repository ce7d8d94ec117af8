"""Layers compressed by the workers of a Dask scheduler: the plan of this process, also if a worker is killed."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim.common.cluster import _on_workers, tasks_on
from prap_pim.common.errors import UserError
from prap_pim.methods.calibrate.network import compressed
from prap_pim.runs.stages import versions
from tests.cluster import scheduler, worker


class Attending(nn.Module):
    """Three layers that read the same, and two that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(8, 16), nn.Linear(16, 5)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 24)
        self.last = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        mixed = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1) @ self.value(x)
        return self.out(self.last(mixed))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler(folder) as address, worker(address, folder), worker(address, folder):
        yield address


def setting(method: str) -> dict[str, object]:
    return {"keep": 0.25} if method == "similar" else {"compute_ratio": 0.6}


@pytest.mark.parametrize("method", ["calibrated", "lowbit", "similar"])
def test_the_same_plan_for_a_seed(cluster: str, method: str) -> None:
    torch.manual_seed(0)
    model, x = Attending(), torch.randn(40, 6, 8)
    one, two = (
        prap_pim.compress(model, x, method, seed=3, scheduler=where, **setting(method)) for where in (None, cluster)
    )
    assert two.plan.digest() == one.plan.digest()
    assert two.check == one.check
    assert not any(plan.donors.flags.writeable for plan in two.plan.layers.values())


class InPlace(nn.Module):
    """The second layer reads what something has written to behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.one, self.two, self.three = (nn.Conv2d(4, 4, 3) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        one = self.one(x)
        self.relu(x)
        return one + self.two(x) + self.three(x)


@pytest.mark.parametrize(
    ("model", "x", "together"),
    [(Attending(), (40, 6, 8), {"key", "value"}), (InPlace(), (40, 4, 8, 8), {"two", "three"})],
)
def test_layers_that_read_the_same_are_compressed_together(
    model: nn.Module, x: tuple[int, ...], together: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before anything is changed: what the first layers leave to make good decides about the next."""
    seen: list[set[str]] = []

    def counting(function: Any, items: Any) -> Iterator[Any]:
        if function is compressed:
            seen.append({work.given.layer.name for work in items})
        return map(function, items)

    monkeypatch.setattr("prap_pim.api.model.here", counting)
    prap_pim.compress(model, torch.randn(x), "calibrated", compute_ratio=0.6)
    assert any(together <= group for group in seen)
    assert not any({"one", "two"} <= group or {"value", "last"} <= group for group in seen)


def _slow(item: tuple[str, int]) -> tuple[int, int]:
    folder, number = item
    (Path(folder) / f"{number}-{os.getpid()}").touch()
    time.sleep(0.3)
    return number, os.getpid()


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    """Killed while it works, and again while it holds a result that nobody has fetched."""
    with (
        scheduler(tmp_path) as address,
        worker(address, tmp_path),
        worker(address, tmp_path) as victim,
        tasks_on(address, versions) as tasks,
    ):
        found = tasks(_slow, [(str(tmp_path), number) for number in range(12)])
        first = next(found)
        limit = time.monotonic() + 60
        while not list(tmp_path.glob(f"*-{victim.pid}")) and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(victim.pid, signal.SIGKILL)
        every = [first, *found]
    assert [number for number, _ in every] == list(range(12))
    assert list(tmp_path.glob(f"*-{victim.pid}"))
    begun = [int(path.name.partition("-")[0]) for path in tmp_path.glob("*-*") if path.name[0].isdigit()]
    assert len(begun) > len(set(begun))  # something was done again


def _raises(item: int) -> int:
    raise UserError(f"layer {item}: of no use")


def test_what_goes_wrong_is_one_line(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tasks_on(cluster, versions) as tasks, pytest.raises(UserError, match=r"^layer 1: of no use$"):
        list(tasks(_raises, [1]))
    with pytest.raises(UserError, match="has another version of python"), tasks_on(cluster, _other):
        pass
    monkeypatch.setattr("prap_pim.common.cluster._ANSWER", 1)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
        prap_pim.compress(Attending(), torch.randn(8, 6, 8), "similar", keep=0.5, scheduler="tcp://127.0.0.1:1")


def _other() -> dict[str, str]:
    return {"python": str(os.getpid())}


def test_few_tasks_are_on_the_way(cluster: str) -> None:
    """Items are taken as results are asked for: a walk through a network does not run ahead with all its inputs."""
    from distributed import Client

    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with Client(cluster, set_as_default=False) as client:
        found = _on_workers(client, abs, items())
        assert next(found) == 0
        assert len(taken) <= 4
        assert list(found) == list(range(1, 20))
