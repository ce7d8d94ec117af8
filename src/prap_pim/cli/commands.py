"""What each command does: thin, and torch is loaded only where a command needs it."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import click

from prap_pim.cli.output import Output, progress_bars
from prap_pim.cli.parser import EXAMPLES, PACKAGE, Number
from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import check_writable
from prap_pim.report.figure_names import FORMATS, OF_STUDIES
from prap_pim.results.run import Results
from prap_pim.results.study import StudyResults


def _let_threads_sleep() -> None:
    """torch's threads spin while they wait for one another, which ruins them where a core is busy with something else
    (8.8 instead of 5.6 s an epoch here): let them sleep sooner. Must be said before torch is loaded."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def example(arguments: SimpleNamespace) -> None:
    if arguments.name is not None:
        print(_example(arguments.name).read_text(), end="")
        return
    for name in EXAMPLES:
        first, _, _ = _example(name).read_text().partition("\n")
        print(f"{name:<18} {first.removeprefix('# ')}")


def _example(name: str) -> Path:
    return PACKAGE / "examples" / f"{name}.yaml"


def config_file(arguments: SimpleNamespace) -> Path:
    """The configuration that a command is given: a file, or an example's."""
    if (arguments.config is None) == (arguments.example is None):
        raise UserError("give a configuration, or --example NAME; not both")
    path: Path = arguments.config if arguments.example is None else _example(arguments.example)
    return path


def _as_called() -> str:
    """The command as results keep it: in names of files, bytes that are no text are replaced."""
    return shlex.join(["prap-pim", *sys.argv[1:]]).encode("utf-8", "replace").decode()


def run(arguments: SimpleNamespace, methods: list[str] | None = None, details: bool = False) -> int:
    from prap_pim.cli import launch
    from prap_pim.common.settings import read_yaml

    flags = {key: getattr(arguments, key) for key in launch.Launch.model_fields}
    asked = launch.Launch.of({key: value for key, value in flags.items() if value is not None}, os.environ)
    if asked.devices * asked.nodes > 1 and not launch.is_one_of_many(os.environ):
        return launch.start(arguments.words, asked)
    launched = launch.follow()
    _let_threads_sleep()
    with progress_bars(arguments.quiet or arguments.json or not launch.is_first(os.environ)) as progress:
        place = config_file(arguments)
        values = read_yaml(place, arguments.overrides)
        # imported here: torch takes seconds, and --help should not wait for it
        from prap_pim.results.folder import RunFolder
        from prap_pim.runs import pipeline
        from prap_pim.runs.config import RunConfig
        from prap_pim.runs.places import roots_of
        from prap_pim.runs.task import load_task
        from prap_pim.training import Lost, Processes

        config = RunConfig.checked(values, str(place))
        if methods is not None:
            config = config.only(methods)
        folder = arguments.output if arguments.output is not None else config.output
        command = _as_called()
        try:
            roots = roots_of(RunFolder(folder)) if arguments.resume else ()
            task = load_task(config.located(roots), arguments.allow_imports)
            processes = Processes(asked.accelerator, asked.precision, asked.devices, asked.nodes)
            if not processes.first:
                pipeline.assist(config, processes, task)
                return 0
            results = pipeline.run(config, folder, command, arguments.resume, progress, processes, task)
        except Lost:
            if launched:
                return launch.LOST
            raise
    _show(arguments, folder, results, details)
    return 0


def compare(arguments: SimpleNamespace) -> int:
    return run(arguments, arguments.methods, details=True)


def explore(arguments: SimpleNamespace) -> None:
    if arguments.processes is not None and arguments.scheduler is not None:
        raise UserError("--processes and --scheduler exclude each other: a cluster has its own processes")
    _let_threads_sleep()
    with progress_bars(arguments.quiet or arguments.json) as progress:
        from prap_pim.common.settings import read_yaml

        place = config_file(arguments)
        values = read_yaml(place, arguments.overrides)
        from prap_pim.runs.study import StudyConfig, run_study  # torch, as in run
        from prap_pim.runs.study.trial import Stages

        config = StudyConfig.checked(values, str(place))
        folder = arguments.output if arguments.output is not None else config.output
        command = _as_called()
        how = arguments.resume, arguments.processes, arguments.scheduler
        results = run_study(config, folder, command, *how, progress, Stages(arguments.allow_imports))
    _show_study(arguments, folder / "report.html", results)


def _show_study(arguments: SimpleNamespace, page: Path, results: StudyResults) -> None:
    from prap_pim.report.terminal.study import print_study

    if arguments.json:
        print(results.model_dump_json())
    elif not arguments.quiet:
        console = Output()
        print_study(results, console)
        console.print(f"report: {page}", highlight=False, soft_wrap=True, markup=False)


def report(arguments: SimpleNamespace) -> None:
    from prap_pim.report.differences import read_runs
    from prap_pim.report.html.run import write_report
    from prap_pim.report.html.runs import write_runs
    from prap_pim.report.html.study import write_study_report
    from prap_pim.report.terminal.run import print_results
    from prap_pim.report.terminal.runs import print_runs
    from prap_pim.results.folder import RunFolder

    folders = list({path.resolve(): RunFolder(path) for path in arguments.folders}.values())  # each once
    first = folders[0]
    output = arguments.output or (first.report if len(folders) == 1 else first.path / "runs.html")
    if arguments.output is not None:
        if output.suffix != ".html":
            raise UserError(f"--output {output}: the page must be a file that ends in .html")
        check_writable(output)
    is_study = len(folders) == 1 and first.study.exists()
    if arguments.reuse and (is_study or len(folders) > 1):
        raise UserError("--reuse: only the page of one run has reuse maps")
    if is_study:
        study = first.read_study()
        with _page(arguments):
            write_study_report(study, output, first.config)
        _show_study(arguments, output, study)
        return
    if len(folders) > 1 and output.resolve() in [folder.report.resolve() for folder in folders]:
        raise UserError(f"--output {output}: that is the page of one run; choose another name")
    with progress_bars(arguments.quiet or arguments.json) as progress:
        runs = read_runs(folders)
        reuse = [(method, layer) for method, layer in arguments.reuse]
        with _page(arguments):
            if len(runs) == 1:
                write_report(runs[0].results, first, output, progress, reuse)
            else:
                write_runs(runs, output)
    if arguments.json:
        plain = {str(folder.path): run.results.model_dump() for folder, run in zip(folders, runs, strict=True)}
        print(runs[0].results.model_dump_json() if len(runs) == 1 else json.dumps(plain))
    elif not arguments.quiet:
        console = Output()
        if len(runs) == 1:
            print_results(runs[0].results, console)
        else:
            print_runs(runs, console)
        console.print(f"report: {output}", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _page(arguments: SimpleNamespace) -> Iterator[None]:
    """Results are printed as JSON whether or not the page that nobody named can be written, as on a full disk."""
    try:
        yield
    except UserError as error:
        if not arguments.json or arguments.output is not None or not isinstance(error.__cause__, OSError):
            raise
        print(f"prap-pim: {error}", file=sys.stderr)


def plot(arguments: SimpleNamespace) -> None:
    output, format_ = arguments.output, arguments.format
    if format_ is None:
        format_ = output.suffix[1:] if output is not None else "pdf"
        if format_ not in FORMATS:
            raise UserError(f"{output}: say what to write with --format ({', '.join(FORMATS)})")
    if output is None:
        output = Path(f"{arguments.figure}.{format_}")
    check_writable(output)
    methods = arguments.methods or []
    of_study = arguments.figure in OF_STUDIES
    if of_study and (methods or len(arguments.folders) > 1):
        raise UserError(f"--figure {arguments.figure} shows one study: give one folder and no --methods")
    differences = ""
    with progress_bars(arguments.quiet or arguments.json):
        from prap_pim.report.differences import read_runs, verdict
        from prap_pim.report.figures import figure_table, study_table, write_figure
        from prap_pim.results.folder import RunFolder

        if of_study:
            table = study_table(arguments.figure, RunFolder(arguments.folders[0]).read_study())
        else:
            runs = read_runs([RunFolder(folder) for folder in arguments.folders])
            table = figure_table(arguments.figure, arguments.folders, [run.results for run in runs], methods)
            comparison = verdict(runs)
            differences = "" if len(runs) == 1 or comparison.alike else " ".join(comparison.sentences)
        write_figure(arguments.figure, table, output, format_, arguments.width)
    if differences and not arguments.quiet:
        print(f"prap-pim: {one_line(differences)}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"figure": arguments.figure, "file": str(output), **table.as_json()}, allow_nan=False))
    elif not arguments.quiet:
        print(f"written: {output}")


def simulate(arguments: SimpleNamespace) -> None:
    _let_threads_sleep()
    with progress_bars(arguments.quiet or arguments.json) as progress:
        from prap_pim.results.folder import RunFolder

        RunFolder(arguments.folder).check_finished()
        from prap_pim.runs.crossbars import Crossbars, Sweep  # torch, as in run
        from prap_pim.runs.simulate import Request, simulate_run

        options = {key: value for key, value in vars(arguments).items() if key in Request.model_fields}
        options["sweep"] = Sweep.parse(arguments.sweep) if arguments.sweep is not None else None
        given = {key: value for key, value in options.items() if value is not None}
        request = Request.checked(given, "simulate")
        crossbars = Crossbars.read(arguments.device, arguments.overrides)
        command = _as_called()
        how = command, progress, arguments.allow_imports
        _, simulation = simulate_run(arguments.folder, request, crossbars, *how)
    if arguments.json:
        print(simulation.model_dump_json())
    elif not arguments.quiet:
        from prap_pim.report.terminal.run import print_simulation

        console = Output()
        print_simulation(simulation, console)
        report = arguments.folder / "report.html"
        console.print(f"report: {report}", highlight=False, soft_wrap=True, markup=False)


def compress(arguments: SimpleNamespace) -> None:
    limits = {"--ratio": arguments.ratio, "--budget": arguments.budget, "--max-drop": arguments.max_drop}
    given = [name for name, value in limits.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: each sets how far the model is compressed")
    _let_threads_sleep()
    with progress_bars(arguments.quiet or arguments.json) as progress:
        from prap_pim.api.anything import as_arrays, model_settings
        from prap_pim.api.onnx import compress_onnx
        from prap_pim.common.settings import with_overrides
        from prap_pim.methods.method import given_once
        from prap_pim.report.terminal.onnx import print_summary

        options = with_overrides({}, arguments.overrides)
        quantize, tune = options.pop("quantize", None), options.pop("tune", None)
        if arguments.tune is not None:
            tune = given_once(tune, steps=arguments.tune)
        options = given_once(options, budget=_budget(arguments.budget), max_drop=arguments.max_drop)
        how = {"compute_ratio": arguments.ratio, "quantize": quantize, "tune": tune, "progress": progress}
        how |= {key: getattr(arguments, key) for key in ("method", "chip", "skip", "seed")}
        model, calibration = model_settings(str(arguments.model)), str(arguments.calibration)
        if "onnx" not in model:
            _compress_module(arguments, model, {**how, **options})
            return
        if arguments.checkpoint is not None:
            raise UserError("--checkpoint: an ONNX file holds its own weights")
        with TemporaryDirectory() as folder:
            if Path(calibration).suffix != ".npz":
                calibration = str(as_arrays(calibration, arguments.tokenizer, folder))
            summary = compress_onnx(
                model["onnx"],
                calibration,
                arguments.output,
                plan=arguments.plan,
                options=options,
                bit_true=arguments.bit_true,
                batch_axes=_batch_axes(arguments.batch_axes),
                **how,
            )
    if arguments.json:
        print(summary.model_dump_json())
    elif not arguments.quiet:
        print_summary(summary, Output())


def _compress_module(arguments: SimpleNamespace, model: dict[str, Any], how: dict[str, Any]) -> None:
    """A PyTorch model: all of its compression goes into a folder."""
    from prap_pim.api.anything import compress_named
    from prap_pim.api.model import estimate

    for name in ("bit_true", "batch_axes"):
        if getattr(arguments, name):
            raise UserError(f"--{name.replace('_', '-')}: that is for ONNX models")
    named = {key: getattr(arguments, key) for key in ("checkpoint", "tokenizer", "allow_imports")}
    found = compress_named(model, str(arguments.calibration), arguments.output, **named, **how)
    if arguments.plan is not None:
        found.plan.save(arguments.plan)
    costs = estimate(found, chip=arguments.chip)
    if arguments.json:
        values = {"output": str(arguments.output), "compute_ratio": found.compute_ratio, "energy_j": costs.energy_j}
        print(json.dumps({**values, "check": found.check.model_dump()}))
    elif not arguments.quiet:
        print(f"{found.summary()}\n\nwritten: {arguments.output}")


def _budget(given: str | None) -> dict[str, float] | None:
    """Of ``NAME=R``."""
    if given is None:
        return None
    name, _, share = given.partition("=")
    try:
        return {name: Number().convert(share, None, None)}
    except click.UsageError:
        raise UserError(f"--budget takes NAME=R with a number R, such as energy=0.25, not {given!r}") from None


def _batch_axes(given: Sequence[str]) -> dict[str, int | None]:
    """Of ``NAME=AXIS``; an input's name may hold any sign."""
    axes: dict[str, int | None] = {}
    for text in given:
        name, _, axis = text.rpartition("=")
        if not name or not re.fullmatch(r"\d{1,9}|none", axis):
            raise UserError(f"--batch-axis takes NAME=AXIS with an axis from 0, or NAME=none, not {text!r}")
        if name in axes:
            raise UserError(f"--batch-axis names {name!r} twice")
        axes[name] = None if axis == "none" else int(axis)
    return axes


def replay(arguments: SimpleNamespace) -> None:
    from prap_pim.methods.published import expected_gains
    from prap_pim.replay.ratios import replay
    from prap_pim.report.terminal.gains import print_gains

    asked = arguments.preset, arguments.network, arguments.method
    gains, known, source, basis = replay(*asked), expected_gains(arguments.preset), "published ratios", "expected"
    if arguments.mapped:
        from prap_pim.replay.mapped import replay_mapped

        with progress_bars(arguments.quiet or arguments.json) as progress:
            known, gains = gains, replay_mapped(*asked, seed=0, progress=progress)
        source, basis = "mapped random weights", "by ratios"
    if arguments.json:
        print(json.dumps({network: {m: g.model_dump() for m, g in by.items()} for network, by in gains.items()}))
    elif not arguments.quiet:
        for network, by_method in gains.items():
            title = f"{network} on {arguments.preset}: gains over dense, from {source}"
            print_gains(title, by_method, known.get(network, {}), basis, Output())
        print(f"The paper's claim, over every baseline and explained: prap-pim reproduce {arguments.preset}")


def reproduce(arguments: SimpleNamespace) -> None:
    """What a paper's method gains over each baseline, from published ratios and real mappings, beside its claim."""
    from prap_pim.methods.published import claim
    from prap_pim.replay.explained import explain, verdict
    from prap_pim.replay.mapped import mapped_inferences
    from prap_pim.replay.ratios import gains_over_dense, replay
    from prap_pim.report.terminal.gains import print_over, print_steps
    from prap_pim.results.run import mean

    asked, claimed = (arguments.preset, arguments.network, ()), claim(arguments.preset)
    with progress_bars(arguments.quiet or arguments.json) as progress:
        by_ratios, mapped = replay(*asked), mapped_inferences(*asked, seed=0, progress=progress)
    every = {
        "published ratios": by_ratios,
        "real mappings of random weights": gains_over_dense(mapped, list(next(iter(by_ratios.values())))),
    }
    steps = explain(arguments.preset, mapped, claimed.method, claimed.over)
    best = {
        source: mean([by_method[claimed.method].over(by_method[claimed.over]) for by_method in gains.values()])
        for source, gains in every.items()
    }
    if arguments.json:
        found = {
            source: {
                "gains": {network: {m: g.model_dump() for m, g in by.items()} for network, by in gains.items()},
                f"over {claimed.over}": best[source].model_dump(),
            }
            for source, gains in every.items()
        }
        explained = [{"cause": step.cause, **step.gain.model_dump()} for step in steps]
        print(json.dumps({"claim": claimed.model_dump(), **found, "explained": explained}))
    elif not arguments.quiet:
        console = Output()
        for source, gains in every.items():
            print_over(
                f"{claimed.method} on {arguments.preset}, from {source}: speedup / energy gain",
                claimed.method,
                gains,
                console,
            )
        lines = [
            f"The paper: {claimed.speedup:.2f}x performance and {claimed.energy_gain:.2f}x energy efficiency",
            f"  ({claimed.source}).",
            f"Here, over {claimed.over}, mean of the networks above:",
            *(f"  from {source}: {g.speedup:.2f}x and {g.energy_gain:.2f}x" for source, g in best.items()),
        ]
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        title = f"What makes the difference: {claimed.method} over {claimed.over}, one cause after another"
        print_steps(title, {step.cause: step.gain for step in steps}, console)
        for line in (
            *verdict(steps, claimed.method),
            "Trained here: prap-pim compare --example claim. In detail: docs/replay.md.",
        ):
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _show(arguments: SimpleNamespace, folder: Path, results: Results, details: bool = False) -> None:
    from prap_pim.report.terminal.run import print_results

    if arguments.json:
        print(results.model_dump_json())
    elif not arguments.quiet:
        console = Output()
        print_results(results, console, details)
        console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True, markup=False)
