"""What a process learns of the others from flags and environment; starting and ending them is in test_processes.py."""

import pytest

from prap_pim.cli.launch import Launch
from prap_pim.common.errors import UserError

PLACE = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "1"}
TOLD = {"LOCAL_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"}


def test_nothing_asked_for_is_one_process():
    assert Launch.of({}, {}) == Launch(devices=1, nodes=1, accelerator="auto", precision="32-true")


def test_flags_and_what_torchrun_tells():
    asked = Launch.of({"devices": "3", "nodes": "2", "precision": "bf16-mixed"}, PLACE)
    assert (asked.devices, asked.nodes, asked.precision) == (3, 2, "bf16-mixed")
    for given in ({}, {"devices": "3"}, {"nodes": "2"}, {"devices": "3", "nodes": "2"}):
        found = Launch.of(given, TOLD)
        assert (found.devices, found.nodes) == (3, 2)


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ({"devices": "0"}, {}, "devices: must be at least 1, not '0'"),
        ({"devices": "-1"}, {}, "devices: "),
        ({"devices": "two"}, {}, "devices: must be a whole number"),
        ({"devices": "1.5"}, {}, "devices: must be a whole number"),
        ({"nodes": "0"}, {}, "nodes: "),
        ({"precision": "8"}, {}, "precision: must be '32-true' or 'bf16-mixed', not '8'"),
        ({"accelerator": "tpu"}, {}, "accelerator: must be 'auto', 'cpu' or 'cuda', not 'tpu'"),
        ({"nodes": "2"}, {}, "--nodes 2: MASTER_ADDR is missing, .*docs/training.md"),
        ({"nodes": "2"}, {key: PLACE[key] for key in ("MASTER_ADDR", "MASTER_PORT")}, "NODE_RANK is missing"),
        ({"nodes": "2"}, PLACE | {"MASTER_PORT": "http"}, "MASTER_PORT: must be a whole number"),
        ({"nodes": "2"}, PLACE | {"MASTER_PORT": "70000"}, "MASTER_PORT: "),
        ({"nodes": "2"}, PLACE | {"MASTER_ADDR": ""}, "MASTER_ADDR: "),
        ({"nodes": "2"}, PLACE | {"NODE_RANK": "2"}, "NODE_RANK must be less than --nodes 2"),
        ({}, {"LOCAL_RANK": "0"}, "WORLD_SIZE is missing"),
        ({}, TOLD | {"LOCAL_WORLD_SIZE": "4"}, "every machine must have as many processes"),
        ({"devices": "2"}, TOLD, "--devices 2 --nodes 2: 6 processes were started, 3 on this machine"),
    ],
)
def test_mistakes(given: dict[str, str], environment: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        Launch.of(given, environment)
