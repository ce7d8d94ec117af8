"""Shards: the whole batch's gradient, batch norm by hand, and the same bits from two processes as from one."""

import atexit
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prap_pim.common.errors import UserError
from prap_pim.methods.calibrate.train_donors import tie
from prap_pim.methods.finetune import finetune, project
from prap_pim.training import Checkpoint, Processes, Training, TrainingConfig, check_shards, train, train_along
from prap_pim.training.checkpoint import CheckpointFolder
from prap_pim.training.data import Examples
from prap_pim.training.models import ResNetConfig, build
from tests.methods.calibrate import test_train_donors as donors
from tests.methods.test_finetune import tiny_assignments
from tests.training.test_training import STILL, same, tiny_gpt, tokens

SHORT = TrainingConfig(epochs=4, compress_at=2, batch_size=7, learning_rate=0.02, project_every=1, shards=4)


def examples() -> Examples:
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(20, 1, 8, 8, generator=generator), torch.arange(20) % 3)


def tiny_resnet() -> nn.Module:
    return build(ResNetConfig(depth=8, width=3), 1, 3, 0)


def with_dropout() -> nn.Module:
    linear = nn.Linear(64, 3)
    nn.init.constant_(linear.weight, 0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), linear)


def plain() -> nn.Module:
    return nn.Sequential(*(part for part in with_dropout() if not isinstance(part, nn.Dropout)))


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_shards_descend_the_whole_batchs_loss(shards: int, tmp_path: Path) -> None:
    """Batches of 7, 7 and 6: shards of unequal sizes count by their examples."""
    config = SHORT.model_copy(update={"augment": STILL, "shards": None})
    whole, parts = plain(), plain()
    train(whole, Training(examples(), config, 0, tmp_path / "whole"), stop=4)
    train(parts, Training(examples(), config.model_copy(update={"shards": shards}), 0, tmp_path / "parts"), stop=4)
    for value, expected in zip(parts.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    assert not same(parts.state_dict(), plain().state_dict())


def test_batch_norm_sees_shards_and_keeps_their_average(tmp_path: Path) -> None:
    """One batch of 5 in shards of 2, 2 and 1; their order is that of the epoch's permutation, drawn from the seed."""
    data = Examples(torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 0, 1, 1]))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)
            self.seen: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(x.clone())
            out: torch.Tensor = self.norm(x).flatten(1)[:, :2]
            return out

    model = Model()
    config = TrainingConfig(epochs=2, compress_at=1, batch_size=5, shards=3, augment=STILL, learning_rate=0.5)
    train(model, Training(data, config, 0, tmp_path))
    assert [len(x) for x in model.seen] == [2, 2, 1]
    # an affine map by nothing rounds; each input is there once
    at = [[int((data.inputs - one).abs().flatten(1).amax(dim=1).argmin()) for one in x] for x in model.seen]
    assert sorted(number for chosen in at for number in chosen) == [0, 1, 2, 3, 4]
    for x, chosen in zip(model.seen, at, strict=True):
        torch.testing.assert_close(x, data.inputs[chosen])
    mean = sum(0.1 * x.mean() * len(x) / 5 for x in model.seen)
    variance = sum((0.9 + 0.1 * x.var()) * len(x) / 5 for x in model.seen)
    torch.testing.assert_close(model.norm.running_mean, mean.reshape(1))
    torch.testing.assert_close(model.norm.running_var, variance.reshape(1))
    assert int(model.norm.num_batches_tracked) == 1
    # the gradient of the shards' losses, each normalised by itself; decay is not for batch norm
    weight, bias = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss = torch.zeros(())
    for x, chosen in zip(model.seen, at, strict=True):
        normed = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * weight + bias
        loss = loss + nn.functional.cross_entropy(normed.flatten(1)[:, :2], data.labels[chosen], reduction="sum") / 5
    loss.backward()
    torch.testing.assert_close(model.norm.weight.detach(), 1 - 0.5 * weight.grad)
    torch.testing.assert_close(model.norm.bias.detach(), -0.5 * bias.grad, rtol=1e-4, atol=1e-7)


def test_shards_are_another_run_and_are_varied_by_themselves(tmp_path: Path) -> None:
    two, four = (SHORT.model_copy(update={"shards": shards}) for shards in (2, 4))
    first = train(with_dropout(), Training(examples(), two, 0, tmp_path / "2"))
    assert not same(first.model, train(with_dropout(), Training(examples(), four, 0, tmp_path / "4")).model)
    with pytest.raises(UserError, match="other settings"):
        train(with_dropout(), Training(examples(), four, 0, tmp_path / "2", resume=True))


@pytest.mark.parametrize(
    ("change", "processes", "message"),
    [
        ({"shards": None}, 2, "set training.shards to a multiple of 2, not none"),
        ({"shards": 3}, 2, "set training.shards to a multiple of 2, not 3"),
        ({"shards": 2}, 4, "set training.shards to a multiple of 4, not 2"),
        ({"shards": 7}, 1, r"training.shards \(7\) cannot be more than the examples of a batch \(6\)"),
        ({"shards": 6, "epoch_size": 5}, 1, r"\(6\) cannot be more than the examples of a batch \(5\)"),
    ],
)
def test_shards_that_cannot_be(change: dict[str, Any], processes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_shards(SHORT.model_copy(update=change), 20, processes)
    check_shards(SHORT.model_copy(update={"shards": 6}), 20, 3)
    check_shards(SHORT.model_copy(update={"shards": None}), 20, 1)


def gpus_that_are_not_there() -> int:
    return torch.cuda.device_count() + 1


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(UserError, match="GPUs are asked for with --devices, this machine has"):
        Processes("cuda", devices=gpus_that_are_not_there())


def test_bfloat16_is_another_arithmetic(tmp_path: Path) -> None:
    mixed = Processes("cpu", "bf16-mixed")
    assert mixed.arithmetic == {"accelerator": "cpu", "precision": "bf16-mixed"}
    assert Processes().arithmetic == {"accelerator": "cpu", "precision": "32-true"}
    config = SHORT.model_copy(update={"augment": STILL})
    one, other = plain(), plain()
    train(one, Training(examples(), config, 0, tmp_path / "32"))
    train(other, Training(examples(), config, 0, tmp_path / "16", processes=mixed))
    for value, expected in zip(other.state_dict().values(), one.state_dict().values(), strict=True):
        assert value.dtype == torch.float32
        assert not torch.equal(value, expected)
        torch.testing.assert_close(value, expected, rtol=0.02, atol=2e-3)


# On two processes. Each case trains by itself; what it gives must be the same as with one process, bit for bit.


def resnet_case(folder: Path, processes: Processes | None) -> list[str]:
    model = tiny_resnet()
    branch = train(model, Training(examples(), SHORT, 7, folder / "base", processes=processes))
    last = train(model, Training(examples(), SHORT, 7, folder / "base", resume=True, processes=processes), stop=4)
    assignments = tiny_assignments(model)
    finetune(model, Training(examples(), SHORT, 7, folder / "tuned", processes=processes), branch, assignments)
    plans = project(model, assignments)
    tuned = Checkpoint.of(4, "", model, {})
    return [branch.digest(), last.digest(), tuned.digest(), *(plan.digest() for plan in plans.values())]


def dropout_case(folder: Path, processes: Processes | None) -> list[str]:
    return [train(with_dropout(), Training(examples(), SHORT, 7, folder, processes=processes), stop=4).digest()]


GPT = SHORT.model_copy(update={"optimizer": "adamw", "shards": 2, "epoch_size": 20})


def gpt_case(folder: Path, processes: Processes | None) -> list[str]:
    return [train(tiny_gpt(), Training(tokens(), GPT, 7, folder, processes=processes), stop=4).digest()]


DONORS = donors.SHORT.model_copy(update={"shards": 2})


def donors_case(folder: Path, processes: Processes | None) -> list[str]:
    _, plans = donors.trained(folder, donors.tiny_plans(), DONORS, processes=processes)
    return [plan.digest() for plan in plans.values()]


def resumed_case(folder: Path, processes: Processes | None) -> list[str]:
    """Half with other processes than the other half."""
    half = SHORT.model_copy(update={"epochs": 4})
    train(tiny_resnet(), Training(examples(), half, 7, folder, processes=processes), stop=1)
    train(tiny_resnet(), Training(examples(), half, 7, folder, resume=True), stop=2)
    last = train(tiny_resnet(), Training(examples(), half, 7, folder, resume=True, processes=processes), stop=4)
    assert CheckpointFolder(folder, keep=2).epochs() == [2, 4]
    return [last.digest()]


Case = Callable[[Path, Processes | None], list[str]]
CASES: dict[str, tuple[Case, Callable[[], nn.Module], Callable[[], Examples], TrainingConfig, int]] = {
    "resnet": (resnet_case, tiny_resnet, examples, SHORT, 7),
    "dropout": (dropout_case, with_dropout, examples, SHORT, 7),
    "gpt": (gpt_case, tiny_gpt, tokens, GPT, 7),
    "donors": (donors_case, lambda: donors.model_and_start({})[0], donors.examples, DONORS, 0),
    "resumed": (resumed_case, tiny_resnet, examples, SHORT, 7),
}


def no_thread_of_gloo() -> None:
    """As the last thing in a process: such a thread may abort it while Python ends."""
    threads = [Path(thread, "comm").read_text() for thread in Path("/proc/self/task").iterdir()]
    if any("gloo" in name for name in threads):
        os._exit(3)


def one_of_two(index: int, port: int, folder: Path) -> None:
    if Path("/proc/self/task").exists():
        atexit.register(no_thread_of_gloo)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(index), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    processes = Processes(devices=2)
    assert (processes.index, processes.count, processes.first) == (index, 2, index == 0)
    for name, (case, model, data, config, seed) in CASES.items():
        if processes.first:
            (folder / name).write_text("\n".join(case(folder / f"{name}-two", processes)))
            processes.tell({})
            continue
        while (heard := processes.receive())[0]:
            task, structure = heard
            network = model()
            with torch.no_grad():
                for value in network.parameters():
                    value.fill_(float("nan"))  # what counts are the first one's weights
            if structure:
                tie(network, structure)
            if name == "gpt":  # a process with other data would train something else
                with pytest.raises(UserError, match="process 2 of 2 has other settings, data or torch"):
                    train_along(network, examples(), config, seed, processes, task)
            train_along(network, data(), config, seed, processes, task)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pair = [context.Process(target=one_of_two, args=(index, port, folder)) for index in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in pair] == [0, 0]
    return folder


@pytest.mark.flow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_same_bits_as_one(name: str, by_two: Path, tmp_path: Path) -> None:
    assert CASES[name][0](tmp_path, None) == (by_two / name).read_text().splitlines()
