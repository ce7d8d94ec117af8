"""A user's own network compared, fine-tuned, simulated and searched from Python, beside what the library finds."""

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim import Calibrated, Comparison, Compression, Device, Prap, UserError
from prap_pim.ir.plan import NetworkPlan
from prap_pim.methods import compress as compressing
from tests.own import EVERY, Own, classifier, denoiser, detector, randn, squared

CALIBRATED = Calibrated(compute_ratio=0.5)
NOISY = Device(on_off_ratio=20, variation={"kind": "lognormal", "sigma": 0.3})


def compared(own: Own, folder: Path, **more: Any) -> Comparison:
    how = {"evaluate": own.evaluate, "minimize": own.minimize, "methods": ["dense", CALIBRATED]} | more
    return prap_pim.compare(own.model, own.calibration, output=folder, **how)


def named(value: Any, function: Callable[..., Any]) -> dict[str, float]:
    return {k: float(v) for k, v in value.items()} if isinstance(value, dict) else {function.__name__: float(value)}


def metrics(results: Any, which: str) -> dict[str, float]:
    """Of a method or, with "float", of the run."""
    found = dict(getattr(results, f"{which}_metrics"))
    accuracy = getattr(results, f"{which}_accuracy")
    return found if accuracy is None else found | {"accuracy": accuracy}


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_a_run_finds_what_the_library_finds(name: str, tmp_path: Path) -> None:
    """Plan, and what the user's function gives of the float, the compressed and the bit-true network."""
    own = EVERY[name]()
    comparison = compared(own, tmp_path / "run")
    dense, calibrated = comparison.results.methods
    alone = prap_pim.compress(own.model, own.calibration, CALIBRATED)
    assert NetworkPlan.load(tmp_path / "run/methods/calibrated/plan.safetensors").digest() == alone.plan.digest()
    assert metrics(comparison.results, "float") == named(own.evaluate(own.model), own.evaluate)
    assert metrics(calibrated, "bit_true") == pytest.approx(named(own.evaluate(alone.bit_true), own.evaluate), rel=1e-5)
    assert metrics(calibrated, "compressed") == pytest.approx(named(own.evaluate(alone.model), own.evaluate), rel=1e-3)
    assert dense.checked_images == calibrated.checked_images == comparison.results.images["test"] > 0
    assert all(layer.mismatches == 0 < layer.checked_outputs for layer in calibrated.layers)
    for file in ("results.json", "report.html", "comparison.csv", "config.yaml", "manifest.json"):
        assert (tmp_path / "run" / file).exists(), file
    for metric in metrics(comparison.results, "float"):
        assert metric in (tmp_path / "run/report.html").read_text()


def test_a_second_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle, it goes on with what was done; finished, it does nothing again."""
    own, calls = detector(), 0
    undisturbed = compared(own, tmp_path / "undisturbed").results

    def dies(module: nn.Module) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 4:  # twice of the float network, then of dense on crossbars and in float
            raise KeyboardInterrupt
        found: dict[str, float] = own.evaluate(module)
        return found

    done: list[str] = []
    whole = compressing.compress_network

    def counted(*given: Any, **more: Any) -> Any:
        done.append(given[2].method.name)
        return whole(*given, **more)

    monkeypatch.setattr("prap_pim.runs.stages.compress_network", counted)
    with pytest.raises(KeyboardInterrupt):
        compared(own, tmp_path / "run", evaluate=dies)
    assert (calls, done) == (4, ["dense"])
    again = compared(own, tmp_path / "run", evaluate=dies)
    assert (calls, done) == (4 + 4, ["dense", "calibrated"])
    assert again.results.model_dump(exclude={"command"}) == undisturbed.model_dump(exclude={"command"})
    assert compared(own, tmp_path / "run", evaluate=dies).results == again.results
    assert calls == 8
    for other_measure in ({"evaluate": own.evaluate}, {"evaluate": dies, "minimize": ["recall"]}):
        with pytest.raises(UserError, match="has finished with another evaluate or minimize"):
            compared(own, tmp_path / "run", **other_measure)
    with pytest.raises(UserError, match="holds another run"):
        compared(own, tmp_path / "run", seed=1)
    other = Own(denoiser().model, denoiser().calibration, own.evaluate)
    with pytest.raises(UserError, match="was begun with other content of data"):
        compared(other, tmp_path / "run", name="Detector")


def test_how_it_shows_itself(tmp_path: Path) -> None:
    comparison = compared(classifier(), tmp_path / "run")
    assert "calibrated" in repr(comparison)
    assert "<table>" in comparison._repr_html_()
    accuracy = comparison.results.methods[0].bit_true_accuracy
    assert f"{100 * accuracy:.2f} %" in repr(comparison)  # what is called accuracy is one
    comparison.report(tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == (tmp_path / "run/report.html").read_text()
    import pandas  # in the dev extra

    assert list(comparison.to_pandas()["name"]) == ["dense", "calibrated"]
    assert isinstance(comparison.to_pandas(), pandas.DataFrame)


@torch.no_grad()
def test_a_network_of_a_run_is_called_as_the_model_is(tmp_path: Path) -> None:
    own = detector()
    comparison = compared(own, tmp_path / "run")
    network = comparison.network("dense")
    assert own.model(own.calibration)["boxes"].allclose(network(own.calibration)["boxes"], atol=0.05)
    assert named(own.evaluate(network), own.evaluate) == comparison.results.methods[0].compressed_metrics
    with pytest.raises(UserError, match="no method 'dens'"):
        comparison.network("dens")


@torch.no_grad()
def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    """In training mode it is measured in evaluation mode; a loader that shuffles gives the same inputs again."""
    own = detector()
    state = {name: value.clone() for name, value in own.model.state_dict().items()}
    own.model.train()
    shuffled = torch.utils.data.DataLoader(own.calibration, 8, shuffle=True)
    first = compared(Own(own.model, shuffled, own.evaluate, own.minimize), tmp_path / "run").results
    assert own.model.training
    assert all(torch.equal(value, state[name]) for name, value in own.model.state_dict().items())
    assert first.float_metrics == own.evaluate(own.model.eval())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        again = compared(Own(own.model, shuffled, own.evaluate, own.minimize), tmp_path / "run").results
    assert again == first


def test_devices_are_those_of_the_library(tmp_path: Path) -> None:
    """Accuracy by the user's function, and by labels that the library counts."""
    own = classifier()
    found = prap_pim.compress(own.model, own.calibration, CALIBRATED)
    own_report = found.simulate(NOISY, evaluate=own.evaluate, devices=3, seed=2)
    captured = prap_pim.capture(own.model, own.calibration[:2], "own")
    model = prap_pim.CrossbarModel.of(found.chip, device=NOISY)
    labels = torch.arange(40) % 5
    state = found._compressed.captured.module.state_dict()
    by_labels = prap_pim.monte_carlo(captured.with_state(state), found.plan, model, own.calibration, labels, 3, seed=2)
    assert own_report.accuracies == pytest.approx(by_labels.accuracies)
    assert own_report.mean == pytest.approx(by_labels.mean)
    assert "accuracy" in repr(own_report)
    comparison = compared(own, tmp_path / "run")
    in_run = comparison.simulate(NOISY, devices=3, seed=2, methods=["calibrated"])
    assert in_run.points[0].accuracies == pytest.approx(by_labels.accuracies)
    assert Comparison.simulate(comparison, NOISY, devices=3, seed=2, methods=["calibrated"]).points == in_run.points


def test_the_worst_of_what_should_be_small_is_the_greatest() -> None:
    own = detector()
    found = prap_pim.compress(own.model, own.calibration, CALIBRATED)
    report = found.simulate(NOISY, evaluate=own.evaluate, devices=3, minimize=["loss"])
    losses = [device.metrics["loss"] for device in report.devices]
    assert report.of("loss").worst == max(losses) > min(losses)
    assert report.of("recall").worst == min(device.metrics["recall"] for device in report.devices)
    assert report.metric == "recall"
    with pytest.raises(UserError, match="no number 'recal' was measured"):
        report.of("recal")
    with pytest.raises(UserError, match=r"evaluate cannot be sent to them .*: define it at the top of a module"):
        found.simulate(NOISY, evaluate=lambda module: 1.0, devices=2, processes=2)


def pairs(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    """Images, and themselves turned over: something to learn."""
    images = randn(count, 1, 8, 8)
    return list(zip(images.split(6), (-images).split(6), strict=True))


@pytest.mark.flow
def test_finetuning_learns_the_users_task(tmp_path: Path) -> None:
    """By the user's loss; what compression lost is made good, and the plan is what is measured."""
    model, data = denoiser().model, pairs()

    @torch.no_grad()
    def error(module: nn.Module) -> float:
        return float(sum(squared(module, batch) for batch in data) / len(data))

    how: dict[str, Any] = {"evaluate": error, "minimize": ["error"], "method": Prap(keep=0.5), "skip": "0"}
    tuned = prap_pim.finetune(model, data, loss=squared, epochs=8, learning_rate=0.1, output=tmp_path / "tuned", **how)
    dense, prap = tuned.results.methods
    one_shot = prap_pim.compress(model, [x for x, _ in data], Prap(keep=0.5), skip="0")
    assert dense.bit_true_metrics["error"] == pytest.approx(error(model), rel=0.05)
    assert prap.compute_ratio == pytest.approx(one_shot.compute_ratio)
    assert prap.bit_true_metrics["error"] < 0.8 * error(one_shot.bit_true)
    assert tuned.results.weights == "the user's own; methods are fine-tuned for 8 epochs"
    before = prap_pim.finetune(model, data, loss=squared, epochs=8, learning_rate=0.1, output=tmp_path / "tuned", **how)
    assert before.results == tuned.results
    calibrated = {**how, "method": CALIBRATED, "skip": ()}
    donors = prap_pim.finetune(model, data, loss=squared, epochs=4, output=tmp_path / "donors", **calibrated)
    alone = prap_pim.compress(model, [x for x, _ in data], CALIBRATED)
    assert donors.results.methods[1].bit_true_metrics["error"] < error(alone.bit_true)


def test_a_loss_that_is_not_given_is_the_cross_entropy_of_labels(tmp_path: Path) -> None:
    own = classifier()
    data = [(own.calibration[i : i + 10], torch.arange(10) % 5) for i in range(0, 40, 10)]

    def own_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    digests = []
    for name, loss in (("given", own_loss), ("not", None)):
        prap_pim.finetune(own.model, data, loss=loss, method=CALIBRATED, epochs=2, output=tmp_path / name)
        digests.append(NetworkPlan.load(tmp_path / name / "methods/calibrated/plan.safetensors").digest())
    assert digests[0] == digests[1]


@torch.no_grad()
def test_a_compression_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    for name in ("regression", "detector", "denoiser"):
        own = EVERY[name]()
        found = prap_pim.compress(own.model, own.calibration, CALIBRATED, chip="prap-2023")
        found.save(tmp_path / name)
        back = Compression.load(tmp_path / name, own.model)
        assert back.plan.digest() == found.plan.digest()
        assert own.evaluate(back.model) == own.evaluate(found.model)
        assert own.evaluate(back.bit_true) == own.evaluate(found.bit_true)
        assert back.summary() == found.summary()
        assert back.sqnr_db() == found.sqnr_db()
        assert prap_pim.estimate(back, chip="prap-2023").energy_j == prap_pim.estimate(found, chip="prap-2023").energy_j
        assert {path.suffix for path in (tmp_path / name).iterdir()} == {".json", ".safetensors"}
        back.save(tmp_path / "again")
        for path in (tmp_path / name).iterdir():
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
        shutil.rmtree(tmp_path / "again")
    with pytest.raises(UserError, match="is of another model than this Sequential"):
        Compression.load(tmp_path / "detector", own.model)
    damaged = tmp_path / "denoiser/plan.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"plan.safetensors is damaged"):
        Compression.load(tmp_path / "denoiser", own.model)
    with pytest.raises(UserError, match="cannot read"):
        Compression.load(tmp_path / "nowhere", own.model)


def test_a_study_of_ones_own_network(tmp_path: Path) -> None:
    own = detector()
    study = prap_pim.explore(
        model=own.model,
        calibration=own.calibration,
        evaluate=own.evaluate,
        minimize=["loss"],
        methods=[CALIBRATED],
        space={"chip.adc_bits": [2, 8]},
        objectives=["energy", "metrics.loss"],
        sampler="grid",
        output=tmp_path / "study",
    )
    assert study.objectives == {"energy_j": "minimize", "bit_true_metrics.loss": "minimize"}
    coarse, fine = study.trials
    assert coarse.figures["energy_j"] < fine.figures["energy_j"]
    assert coarse.figures["bit_true_metrics.loss"] > fine.figures["bit_true_metrics.loss"]
    found = prap_pim.compress(own.model, own.calibration, CALIBRATED)
    assert fine.figures["bit_true_metrics.loss"] == pytest.approx(own.evaluate(found.bit_true)["loss"], rel=1e-5)
    study.report(tmp_path / "study.html")
    assert (tmp_path / "study.html").read_text() == (page := (tmp_path / "study/report.html").read_text())
    assert "Caution" not in page  # its weights are the user's


def searched(own: Own, folder: Path, objective: str, *evaluate: Any) -> None:
    given = dict(zip(("evaluate",), evaluate, strict=False)) or {"evaluate": own.evaluate}
    space = {"space": {"chip.adc_bits": [2, 8]}, "objectives": ["energy", objective], "sampler": "grid"}
    prap_pim.explore(model=own.model, calibration=own.calibration, output=folder, **given, **space)


Mistake = tuple[Callable[[nn.Module], Any], str]


def _raises(model: nn.Module) -> float:
    return float(model(randn(2, 1, 8, 8))["no such output"])


def _trains(model: nn.Module) -> float:
    model.train()
    return float(model(randn(8, 3, 8, 8))["scores"].sum())


def _draws(model: nn.Module) -> float:
    return float(torch.rand(()))


MISTAKES: dict[str, Mistake] = {
    "raises": (lambda model: 1 / 0, r"evaluate metric: ZeroDivisionError: division by zero \(test_own.py, line \d+\)"),
    "exits": (lambda model: exit(3), r"evaluate metric: the code ended the program \(exit 3\)"),
    "NaN": (lambda model: math.nan, "evaluate metric is nan: it must be finite"),
    "text": (lambda model: "0.9", "evaluate metric must be a number, not str '0.9'"),
    "nothing": (lambda model: None, "evaluate metric must be a number, not NoneType 'None'"),
    "no names": (lambda model: {}, "evaluate metric gave no number"),
    "yes": (lambda model: {"good": True}, "evaluate metric: 'good' must be a number, not bool 'True'"),
    "per cent": (lambda model: {"accuracy": 91.0}, "'accuracy' is 91: an accuracy is a share, 0 to 1"),
    "other values": (_draws, r"evaluate _draws gives 0\.\d+ and 0\.\d+ for the same model"),
    "training": (_trains, "evaluate _trains changed the model: is its batch norm in training mode?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_evaluate_is_told_of_in_one_line(name: str, tmp_path: Path) -> None:
    own = detector()
    state = {name: value.clone() for name, value in own.model.state_dict().items()}
    evaluate, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as error:
        compared(own, tmp_path / "run", evaluate=evaluate, minimize=())
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, state[name]) for name, value in own.model.state_dict().items())
    if name != "training":
        results = compared(own, tmp_path / "run").results  # mended, it goes on in the same folder
        assert len(results.methods) == 2


def _of_what_it_found(model: nn.Module) -> dict[str, float]:
    own = detector()
    exact = torch.equal(model(own.calibration)["scores"], own.model(own.calibration)["scores"])
    return {"share": 0.5} | ({"exact": 1.0} if exact else {})


def test_numbers_that_some_networks_lack(tmp_path: Path) -> None:
    message = "evaluate _of_what_it_found gives 'exact' of some networks alone"
    with pytest.raises(UserError, match=message):
        compared(detector(), tmp_path / "run", evaluate=_of_what_it_found, minimize=())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_kinds_of_floats(kind: torch.dtype, tmp_path: Path) -> None:
    """Methods' networks take what the model takes, and give what it gives."""
    model, x = detector().model.to(kind), randn(40, 3, 8, 8).to(kind)
    own = Own(model, x, lambda module: module(x)["scores"].float().mean().item())
    results = compared(own, tmp_path / "run").results
    for which in ("compressed", "bit_true"):
        assert metrics(results.methods[0], which)["metric"] == pytest.approx(own.evaluate(model), rel=0.02)


def test_wrong_arguments_are_told_of_in_one_line(tmp_path: Path) -> None:
    own = detector()
    model, x = own.model, own.calibration
    run = tmp_path / "run"
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: prap_pim.compare(model, x, output=run, evaluate=0.5), "evaluate must be a function of a module, not"),
        (lambda: compared(own, run, minimize=["los"]), "minimize: evaluate recall gives no 'los' .did you mean 'loss'"),
        (lambda: compared(own, run / "2", methods="dense"), "methods must be a list"),
        (lambda: compared(own, run / "2", methods=[]), "methods must be a list"),
        (lambda: compared(own, run / "2", methods=["densely"]), "there is no method 'densely'"),
        (lambda: compared(own, run / "2", chip="isaac-32mn"), "no chip 'isaac-32mn'"),
        (lambda: compared(own, run / "2", mappin="pack"), "compare: unknown key 'mappin'"),
        (lambda: prap_pim.compare(copy.deepcopy(model).to("meta"), x, output=run / "2"), "is on the device meta"),
        (lambda: prap_pim.compare(model, [], output=run / "2"), "there are no inputs to calibrate with"),
        (lambda: prap_pim.finetune(model, [], output=run / "2"), "train_loader is empty"),
        (
            lambda: prap_pim.finetune(model, iter(pairs()), calibration=x, output=run / "2"),
            "train: it must give batches",
        ),
        (lambda: prap_pim.finetune(model, pairs(), calibration=x, loss=3, output=run / "2"), "loss must be a function"),
        (
            lambda: prap_pim.finetune(model, pairs(), calibration=x, loss=lambda m: 0, output=run / "2"),
            "must take two arguments, model and batch",
        ),
        (lambda: searched(own, run, "metrics.los"), "objectives: evaluate recall gives no 'los' .did you mean 'loss'"),
        (lambda: searched(own, run, "accuracy"), "objectives: evaluate recall gives no 'accuracy'"),
        (lambda: searched(own, run, "metrics.loss", None), "objectives: what a network is worth needs evaluate"),
        (lambda: searched(own, run, "metrics.loss", lambda module: 1 / 0), "evaluate metric: ZeroDivisionError"),
        (lambda: prap_pim.explore(model=model), "a model needs calibration inputs"),
        (
            lambda: prap_pim.explore(model=model, calibration=x, processes=2, space={}, objectives=[]),
            "a model is searched in one process",
        ),
    ]
    for call, message in calls:
        with pytest.raises(UserError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


class _Raising:
    """A loader whose second batch cannot be read."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        yield pairs(12)[0]
        raise OSError("no such picture")


class _Ending:
    """A loader that gives two batches the first time, and one from then on."""

    def __init__(self) -> None:
        self.times = 0

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        self.times += 1
        return iter(pairs(12)[: 2 if self.times < 4 else 1])


def test_wrong_losses_and_loaders_are_told_of_in_one_line(tmp_path: Path) -> None:
    model = denoiser().model
    losses: list[tuple[Callable[[nn.Module, Any], Any], str]] = [
        (lambda model, batch: 1 / 0, "loss <lambda> raised ZeroDivisionError"),
        (lambda model, batch: 0.5, "loss <lambda> must give one number as a tensor, not float"),
        (lambda model, batch: batch[1].sum(), "does not depend on the model's weights"),
    ]
    how: dict[str, Any] = {"method": Prap(keep=0.5), "skip": "0", "epochs": 2}
    for number, (loss, message) in enumerate(losses):
        with pytest.raises(UserError, match=message):
            prap_pim.finetune(model, pairs(), loss=loss, output=tmp_path / str(number), **how)
    with pytest.raises(UserError, match="the loader ended after 1 of 2 batches"):
        prap_pim.finetune(model, _Ending(), loss=squared, output=tmp_path / "ends", **how)
    message = r"the loader: OSError: no such picture \(test_own.py, line \d+\)"
    with pytest.raises(UserError, match=message):
        prap_pim.finetune(model, _Raising(), calibration=randn(6, 1, 8, 8), loss=squared, output=tmp_path / "r", **how)
    with pytest.raises(UserError, match="train_loader: OSError: no such picture"):
        prap_pim.finetune(model, _Raising(), loss=squared, output=tmp_path / "r", **how)
    with pytest.raises(UserError, match="train_loader: TypeError: 'NoneType' object is not iterable"):
        prap_pim.finetune(model, None, loss=squared, output=tmp_path / "r", **how)
    with pytest.raises(UserError, match="batches must be pairs"):
        prap_pim.finetune(model, [randn(6, 1, 8, 8)], output=tmp_path / "alone", **how)
    model[2].weight.requires_grad_(False)
    with pytest.raises(UserError, match="layer 2 is frozen, or takes no part in the loss: leave it dense"):
        prap_pim.finetune(model, pairs(), loss=squared, output=tmp_path / "frozen", **how)


class Routed(nn.Module):
    """Its experts read rows that values choose, which nothing maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            mine = (x[:, 0] > 0) == bool(i)
            found[mine] = expert(x[mine])
        return self.last(found)


def test_what_is_skipped_need_not_be_mapped(tmp_path: Path) -> None:
    """By all three calls, with a pattern, too; a figure named accuracy is an objective under both its names."""
    torch.manual_seed(0)
    model, x = Routed().eval(), torch.randn(80, 16)
    labels = model(x).argmax(1)

    def accuracy(module: nn.Module) -> float:
        return float((module(x).argmax(1) == labels).double().mean())

    how: dict[str, Any] = {"evaluate": accuracy, "skip": ["expert*"]}
    compared = prap_pim.compare(model, x, methods=["dense"], output=tmp_path / "run", **how)
    assert [layer.name for layer in compared.results.methods[0].layers] == ["first", "last"]
    loader = [(x, labels)]
    tuned = prap_pim.finetune(model, loader, method=Prap(keep=0.5), epochs=1, output=tmp_path / "tuned", **how)
    assert [method.name for method in tuned.results.methods] == ["dense", "prap"]
    space = {"chip.adc_bits": [3, 6]}
    found = [
        prap_pim.explore(
            model=model,
            calibration=x,
            methods=["dense"],
            space=space,
            objectives=["energy", objective],
            sampler="grid",
            output=tmp_path / objective,
            **how,
        )
        for objective in ("accuracy", "metrics.accuracy")
    ]
    first, second = ([trial.figures for trial in study.trials] for study in found)
    assert first == second
    assert all(figures["bit_true_accuracy"] > 0 for figures in first)


def test_half_precision_is_not_trained(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to(torch.bfloat16).eval()
    x = torch.randn(80, 16).to(torch.bfloat16)
    message = r"is in bfloat16, which is compressed but not trained: give model\.float\(\)"
    with pytest.raises(UserError, match=message):
        prap_pim.compress(model, x, CALIBRATED, tune={"steps": 3})
    for method in (Prap(keep=0.5), CALIBRATED):
        with pytest.raises(UserError, match=message):
            prap_pim.finetune(model, [(x, x[:, :4])], loss=squared, method=method, epochs=1, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
