"""The store: what is kept is found again, what is damaged never, and nobody computes what another one is at."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prap_pim.common.errors import UserError
from prap_pim.common.files import key_of
from prap_pim.common.settings import Settings
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import COMPONENTS
from prap_pim.results.entries import check_entries
from prap_pim.runs.config import RunConfig
from prap_pim.runs.stages import MethodStages, depends_on
from prap_pim.runs.store import Store
from prap_pim.runs.study.folder import Locks
from tests.runs.crash import Killed, killed_at_write

BASIS = {"plan": "ab", "images": 3}
LARGE = bytes(range(256)) * 8


class Number(Settings):
    value: float


def kept(folder: Path, value: float = 0.1) -> Store:
    store = Store(folder)
    store.entry("figure", BASIS).save(Number(value=value), {"large.bin": LARGE})
    return store


def damaged_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())  # figure-KEY.json and large.bin


def flip(content: bytes, bit: int) -> bytes:
    place = bit // 8 % len(content)
    return content[:place] + bytes([content[place] ^ 1 << bit % 8]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "a bit": lambda content: flip(content, 8 * (len(content) // 3) + 1),
    "a blank more": lambda content: content.replace(b" ", b"  ", 1),
    "of another": lambda content: b"{}",
    "edited": lambda content: content.replace(b'"value": 0.1', b'"value": 0.2').replace(b"\x07", b"\x08"),
}


@pytest.mark.parametrize("file", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_is_named_and_computed_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes | None], file: int
) -> None:
    store = kept(tmp_path)
    path = damaged_files(tmp_path)[file]
    changed = damage(path.read_bytes())
    path.unlink() if changed is None else path.write_bytes(changed)
    assert store.entry("figure", BASIS).load(Number) is None
    with pytest.raises(UserError, match=path.name) as error:
        store.entry("figure", BASIS).read(Number)
    assert "\n" not in str(error.value)
    if path.exists() or file == 1:
        with pytest.raises(UserError, match=path.name):
            check_entries(tmp_path)
    value = store.get("figure", BASIS, Number, lambda: (Number(value=0.1), {"large.bin": LARGE}))
    assert value == Number(value=0.1) == store.entry("figure", BASIS).read(Number)
    check_entries(tmp_path)


@given(bit=st.integers(0, 10**6), file=st.integers(0, 1))
def test_no_bit_is_flipped_unseen(tmp_path_factory: pytest.TempPathFactory, bit: int, file: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = kept(folder)
    path = damaged_files(folder)[file]
    path.write_bytes(flip(path.read_bytes(), bit))
    assert store.entry("figure", BASIS).load(Number) is None


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    def refuse() -> Any:
        raise AssertionError

    assert kept(tmp_path).get("figure", BASIS, Number, refuse) == Number(value=0.1)


@pytest.mark.parametrize(
    "other", [{**BASIS, "images": 4}, {**BASIS, "plan": "b"}, {**BASIS, "more": None}, {"plan": "ab"}, {}]
)
def test_another_input_is_another_value(tmp_path: Path, other: dict[str, Any]) -> None:
    store = kept(tmp_path)
    entry = store.entry("figure", other)
    assert entry.load(Number) is None
    os.rename(damaged_files(tmp_path)[0], entry.path)  # a file in a wrong place
    with pytest.raises(UserError, match="is damaged: what it holds belongs elsewhere"):
        entry.read(Number)


def test_a_value_of_another_version_is_computed_anew(tmp_path: Path) -> None:
    class Named(Settings):
        name: str

    with pytest.raises(UserError, match="was written by another version"):
        kept(tmp_path).entry("figure", BASIS).read(Named)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(one=PLAIN, other=PLAIN)
def test_a_key_is_of_values_and_of_nothing_else(one: Any, other: Any) -> None:
    """The order of settings and a way through a file change nothing; any value does."""
    assert key_of(json.loads(json.dumps(one))) == key_of(one)
    assert (key_of(one) == key_of(other)) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))
    assert key_of({"a": one, "b": other}) == key_of({"b": other, "a": one})


@pytest.mark.parametrize("write", [1, 2])
def test_killed_in_a_write_the_value_is_the_old_one_or_none(
    tmp_path: Path, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kept(tmp_path)
    with monkeypatch.context() as patch:
        killed_at_write(patch, write)
        with pytest.raises(Killed):
            store.entry("figure", BASIS).save(Number(value=0.2), {"large.bin": LARGE[::-1]})
    assert store.entry("figure", BASIS).load(Number) == (Number(value=0.1) if write == 1 else None)


def compute(folder: Path, seconds: float) -> None:
    locks = Locks(folder)

    def slowly() -> tuple[Number, dict[str, bytes]]:
        with (folder / "log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return Number(value=0.1), {}

    Store(folder / "store", locks.stage).get("figure", BASIS, Number, slowly)


def test_processes_wait_for_the_one_that_computes_and_go_on_when_it_is_killed(tmp_path: Path) -> None:
    context, log = multiprocessing.get_context("spawn"), tmp_path / "log"
    first = context.Process(target=compute, args=(tmp_path, 600))
    first.start()
    while not log.exists():
        time.sleep(0.01)
    others = [context.Process(target=compute, args=(tmp_path, 0.5)) for _ in range(2)]
    for process in others:
        process.start()
    others[0].join(2)
    assert len(log.read_text().split()) == 1  # they wait
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    for process in (first, *others):
        process.join(60)
    assert [process.exitcode for process in others] == [0, 0]
    assert len(log.read_text().split()) == 2  # the killed one, and one of the others


CONFIG: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "size": 8, "train": 120, "calibration": 40, "test": 40},
    "model": {"name": "cnn", "width": 4},
    "training": {"epochs": 4, "compress_at": 2},
    "methods": [{"name": "prap", "reuse": {"kind": "similar", "keep": 0.5}}],
}


def keys(config: dict[str, Any], chip: Chip, data: str = "ab") -> tuple[str, str]:
    """Of the trained and of the compressed network."""
    checked = RunConfig.checked(config, "config")
    network = depends_on(checked, data)
    missing: Any = None
    return key_of(network), key_of(MethodStages(checked, missing, chip, network, missing, missing).depends_on)


@pytest.mark.parametrize(
    ("change", "trained", "compressed"),
    [
        ({"seed": 1}, True, True),
        ({"model": {"name": "cnn", "width": 5}}, True, True),
        ({"training": {"epochs": 5, "compress_at": 2}}, True, True),
        ({"training": "none"}, True, True),
        ({"checkpoint": __file__}, True, True),
        ({"methods": [{"name": "prap", "reuse": {"kind": "similar", "keep": 0.25}}]}, False, True),
        ({"methods": [{**CONFIG["methods"][0], "exceptions": [{"layers": "conv1"}]}]}, False, True),
        ({"methods": [{**CONFIG["methods"][0], "finetune": False}]}, False, True),
        ({"quantize": {"input_percentile": 99.0}}, False, True),
        ({"methods": [{**CONFIG["methods"][0], "description": "ours"}]}, False, False),
        ({"name": "other"}, False, False),
        ({"mapping": "pack", "crossbar_budget": 1000, "zero_input_skipping": True}, False, False),
    ],
)
def test_each_input_of_a_stage_is_in_its_key(change: dict[str, Any], trained: bool, compressed: bool) -> None:
    chip = load_chip("isaac-32nm")
    before, after = keys(CONFIG, chip), keys({**CONFIG, **change}, chip)
    assert (before[0] != after[0], before[1] != after[1]) == (trained, compressed)


def test_of_the_chip_the_operation_unit_is_in_the_key() -> None:
    chip = load_chip("isaac-32nm").model_dump()
    wide = Chip.checked({**chip, "grain": {**chip["grain"], "ou_rows": 16}}, "chip")
    adc, rows = (Chip.checked({**chip, key: value}, "chip") for key, value in (("adc_bits", 4), ("crossbar_rows", 64)))
    before = keys(CONFIG, load_chip("isaac-32nm"))
    assert [keys(CONFIG, other)[1] == before[1] for other in (wide, adc, rows)] == [False, True, True]
    calibrated = {**CONFIG, "methods": [{"name": "c", "reuse": {"kind": "calibrated", "compute_ratio": 0.5}}]}
    balanced = keys(calibrated, load_chip("isaac-32nm"))[1]  # over crossbars
    assert [keys(calibrated, other)[1] == balanced for other in (wide, adc, rows)] == [False, True, False]
    assert keys(CONFIG, load_chip("isaac-32nm"), "other data")[0] != before[0]


@pytest.mark.parametrize("quantity", ["energy", "latency", "interval"])
def test_what_is_compressed_to_a_budget_of_the_chip_depends_on_all_of_it(quantity: str, tmp_path: Path) -> None:
    method = {"name": "c", "reuse": {"kind": "calibrated", "budget": {quantity: 0.5}}}
    config, chip = {**CONFIG, "methods": [method]}, load_chip("isaac-32nm")
    table = (COMPONENTS / "isaac-32nm.toml").read_text()
    (tmp_path / "same.toml").write_text(table)
    (tmp_path / "other.toml").write_text(table.replace("value = 2e-3", "value = 3e-3", 1))
    tables = [chip.model_copy(update={"components": str(tmp_path / f"{name}.toml")}) for name in ("same", "other")]
    others = chip.model_copy(update={"adc_bits": 4}), chip.model_copy(update={"name": "x"}), *tables
    before = keys(config, chip)[1]
    assert [keys(config, other)[1] == before for other in others] == [False, True, True, False]
