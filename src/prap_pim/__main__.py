"""The command line. Exit codes: 0 done, 1 our fault, 2 a mistake that the user can mend, 130 interrupted."""

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from prap_pim.cli.output import Output, Parser, discard_output, open_streams, progress_bars
from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import check_writable
from prap_pim.report.figure_names import FIGURES, FORMATS, OF_STUDIES, WIDTHS

if TYPE_CHECKING:
    from prap_pim.results.run import Results
    from prap_pim.results.study import StudyResults


SHELLS = ("bash", "zsh", "fish")


_RESUMABLE = ("run", "compare", "explore")


def _parser() -> Parser:
    parser = Parser(
        prog="prap-pim",
        description="Pattern pruning and reuse on ReRAM processing-in-memory: a trained network, its cost, the proof.",
        epilog="exit codes: 0 done, 1 a fault of the program, 2 a mistake that you can mend (one line says which), "
        "130 interrupted\nexample: prap-pim run examples/digits.yaml",
    )
    parser.add_argument("--version", action="version", version=f"prap-pim {version('prap-pim')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="train, compress, map, cost and prove; leaves a run folder with results.json and report.html",
        epilog="example: prap-pim run examples/digits.yaml --output runs/mine --set training.epochs=30\n"
        "example of two processes: prap-pim run examples/digits.yaml --output runs/two "
        "--set training.shards=2 --devices 2",
    )
    _add_run_arguments(run)
    run.set_defaults(handler=_run, methods=None)

    compare = commands.add_parser(
        "compare",
        help="as run, for chosen methods; prints every figure and saves comparison.csv",
        epilog="example: prap-pim compare examples/digits-compare.yaml --methods dense,orc,prap --output runs/three",
    )
    compare.add_argument("--methods", metavar="NAME,NAME", help="of the configuration's methods, in this order")
    _add_run_arguments(compare)
    compare.set_defaults(handler=_run)

    explore = commands.add_parser(
        "explore",
        help="search chips and compressions for those that none is better than; leaves study.json and report.html",
        epilog="example: prap-pim explore examples/explore.yaml --output runs/mine --set trials=50",
    )
    _add_config_arguments(explore, "examples/explore.yaml")
    where = explore.add_mutually_exclusive_group()
    where.add_argument("--processes", metavar="P", help="at once (default: one a core, as far as memory allows)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs the trials: tcp://host:port")
    explore.set_defaults(handler=_explore)

    report = commands.add_parser(
        "report",
        help="write a finished run's report.html again and print the table; of several runs, compare them on one page",
        epilog="examples: prap-pim report runs/digits; prap-pim report runs/digits runs/three --output both.html",
    )
    report.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="the folder of a run, or of a study")
    report.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html of the run; of several runs, runs.html in the first one's folder)",
    )
    report.add_argument(
        "--reuse",
        nargs=2,
        action="append",
        default=[],
        metavar=("METHOD", "LAYER"),
        help="hold the reuse map of this layer, whole where a page has room, instead of parts of all; may be repeated",
    )
    _add_output_flags(report)
    report.set_defaults(handler=_report)

    plot = commands.add_parser(
        "plot",
        help="a figure for a paper, or the table behind it, from one finished run or several",
        description="Draw a figure, or write the table behind it.\n\n"
        + "\n".join(f"  {name:<14} {shows}" for name, shows in FIGURES.items()),
        epilog="example: prap-pim plot runs/digits --figure speedup --format pdf",
    )
    plot.add_argument(
        "folders", type=Path, nargs="+", metavar="RUN", help="the folder of a finished run, or of a study"
    )
    plot.add_argument("--figure", required=True, choices=list(FIGURES), metavar="NAME", help="see above")
    plot.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)} (default: as the file's name ends, or pdf)",
    )
    plot.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: FIGURE.FORMAT, here")
    plot.add_argument("--methods", metavar="NAME,NAME", help="of the runs, in this order; gains are over the first")
    plot.add_argument("--width", choices=list(WIDTHS), metavar="WIDTH", help="column (3.5 in) or page (7.16 in)")
    _add_output_flags(plot)
    plot.set_defaults(handler=_plot)

    simulate = commands.add_parser(
        "simulate",
        help="accuracy of a finished run's methods on crossbars with device effects; into its results and report",
        epilog="example: prap-pim simulate runs/digits --device examples/device-variation.yaml --sweep sigma=0,0.1,0.2",
    )
    simulate.add_argument("folder", type=Path, metavar="RUN", help="the folder of a finished run")
    simulate.add_argument("--methods", metavar="NAME,NAME", help="of the run (default: all)")
    simulate.add_argument("--device", type=Path, metavar="FILE", help="settings of the crossbars and their cells, YAML")
    simulate.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change one of these settings, as device.variation.sigma=0.1; may be repeated",
    )
    simulate.add_argument(
        "--sweep",
        metavar="NAME=VALUES",
        help="try several values: sigma=0,0.1,0.2, adc-bits=3,4,5 or fault-rate=0,0.01",
    )
    simulate.add_argument("--samples", metavar="N", help="take the first N test images (default: all)")
    simulate.add_argument("--devices", metavar="M", help="devices, each with errors of its own (default: 5)")
    simulate.add_argument("--seed", metavar="S", help="of the devices' errors (default: 0)")
    simulate.add_argument("--processes", metavar="P", help="at once (default: one a core, as far as memory allows)")
    simulate.add_argument("--name", help="of the simulation in the report; one of the same name is replaced")
    _add_output_flags(simulate)
    simulate.set_defaults(handler=_simulate)

    compress = commands.add_parser(
        "compress",
        help="compress an ONNX model on calibration inputs, without labels or training; its graph stays",
        epilog="example: prap-pim compress model.onnx --calibration data.npz --ratio 0.25 --output small.onnx",
    )
    compress.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file, opset 9 or newer")
    compress.add_argument(
        "--calibration", type=Path, required=True, metavar="FILE", help="npz file with an array [N, ...] for each input"
    )
    compress.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the compressed model")
    compress.add_argument(
        "--method",
        default="calibrated",
        help="calibrated (default), similar, identical, orc, structured, pattern, prap or dense",
    )
    budget = compress.add_mutually_exclusive_group()
    budget.add_argument("--ratio", metavar="R", help="OU steps of the whole model, of those uncompressed")
    budget.add_argument(
        "--max-drop", metavar="D", help="calibrated: share of the inputs that may be classified otherwise"
    )
    compress.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="another setting of the method, as keep=0.25 of similar, or quantize.KEY of int8 inputs; may be repeated",
    )
    compress.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="a layer to leave whole, or a pattern with * and ?; may be repeated",
    )
    compress.add_argument(
        "--batch-axis",
        action="append",
        default=[],
        dest="batch_axes",
        metavar="NAME=AXIS",
        help="where an input has its batch if that cannot be inferred, or none: it is given once; may be repeated",
    )
    compress.add_argument("--chip", default="isaac-32nm", help="a preset, or a TOML file (default: isaac-32nm)")
    compress.add_argument("--seed", default="0", metavar="S", help="of the calibration (default: 0)")
    compress.add_argument(
        "--bit-true", type=Path, metavar="FILE", help="write a model that computes as the crossbars do, too (.onnx)"
    )
    compress.add_argument("--plan", type=Path, metavar="FILE", help="save the plan, too (.safetensors)")
    _add_output_flags(compress)
    compress.set_defaults(handler=_compress)

    replay = commands.add_parser(
        "replay",
        help="drive the cost model with published per-layer ratios, to compare it with the authors' own",
        epilog="example: prap-pim replay prap-2023 --network vgg16 --method prap",
    )
    replay.add_argument("preset", metavar="PRESET", help="published settings, and the chip of that name: prap-2023")
    replay.add_argument("--network", action="append", default=[], metavar="NAME", help="default: all; may be repeated")
    replay.add_argument("--method", action="append", default=[], metavar="NAME", help="default: all; may be repeated")
    replay.add_argument(
        "--mapped", action="store_true", help="count real mappings of random weights, instead of taking ratios"
    )
    _add_output_flags(replay)
    replay.set_defaults(handler=_replay)

    completion = commands.add_parser(
        "completion",
        help="print a script that makes a shell complete commands, options and files",
        epilog='example: eval "$(prap-pim completion bash)"',
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    completion.set_defaults(handler=_completion)
    return parser


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
    _add_config_arguments(run, "examples/digits.yaml")
    run.add_argument("--devices", metavar="N", help="processes that train, a GPU each if there are any (default: 1)")
    run.add_argument("--nodes", metavar="M", help="machines, each with as many; see docs/training.md (default: 1)")
    run.add_argument("--accelerator", metavar="NAME", help="to train on: cpu, cuda or auto (default: auto)")
    run.add_argument("--precision", metavar="P", help="to train with: 32-true or bf16-mixed (default: 32-true)")


def _add_config_arguments(run: argparse.ArgumentParser, example: str) -> None:
    run.add_argument("config", type=Path, metavar="CONFIG", help=f"a YAML file, see {example}")
    run.add_argument("--output", type=Path, metavar="FOLDER", help="its folder (default: `output` of the config)")
    run.add_argument("--resume", action="store_true", help="go on with what the folder holds, where it was left")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting, dots between nested keys; may be repeated",
    )
    _add_output_flags(run)


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors, and with --json the results")
    parser.add_argument("--json", action="store_true", help="print the results as JSON and nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from prap_pim.cli import launch
    from prap_pim.common.settings import read_yaml

    flags = {key: getattr(arguments, key) for key in launch.Launch.model_fields}
    asked = launch.Launch.of({key: value for key, value in flags.items() if value is not None}, os.environ)
    if asked.devices * asked.nodes > 1 and not launch.is_one_of_many(os.environ):
        return launch.start(arguments.given, asked)
    launched = launch.follow()
    # torch's threads spin while they wait for one another, which ruins them where a core is busy with something else
    # (8.8 instead of 5.6 s an epoch here): let them sleep sooner. Must be said before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with progress_bars(arguments.quiet or arguments.json or not launch.is_first(os.environ)) as progress:
        values = read_yaml(arguments.config, arguments.overrides)
        # imported here: torch takes seconds, and --help should not wait for it
        from prap_pim.runs.config import RunConfig
        from prap_pim.runs.pipeline import assist, run
        from prap_pim.training import Lost, Processes

        config = RunConfig.checked(values, str(arguments.config))
        if arguments.methods is not None:
            config = config.only(arguments.methods.split(","))
        folder = arguments.output if arguments.output is not None else config.output
        command = shlex.join(["prap-pim", *sys.argv[1:]])
        try:
            processes = Processes(asked.accelerator, asked.precision, asked.devices, asked.nodes)
            if not processes.first:
                assist(config, processes)
                return 0
            results = run(config, folder, command, arguments.resume, progress, processes)
        except Lost:
            if launched:
                return launch.LOST
            raise
    _show(arguments, folder, results, details=arguments.command == "compare")
    return 0


def _explore(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in _run
    with progress_bars(arguments.quiet or arguments.json) as progress:
        from pydantic import Field

        from prap_pim.common.settings import Settings, read_yaml

        values = read_yaml(arguments.config, arguments.overrides)
        from prap_pim.runs.study import StudyConfig, run_study  # torch, as in _run

        class Request(Settings):
            processes: int | None = Field(default=None, ge=1, le=1024)

        request = Request.checked({"processes": arguments.processes}, "explore")
        config = StudyConfig.checked(values, str(arguments.config))
        folder = arguments.output if arguments.output is not None else config.output
        command = shlex.join(["prap-pim", *sys.argv[1:]])
        how = arguments.resume, request.processes, arguments.scheduler
        results = run_study(config, folder, command, *how, progress)
    _show_study(arguments, folder / "report.html", results)


def _show_study(arguments: argparse.Namespace, page: Path, results: "StudyResults") -> None:
    from prap_pim.report.study import print_study

    if arguments.json:
        print(results.model_dump_json())
    elif not arguments.quiet:
        console = Output()
        print_study(results, console)
        console.print(f"report: {page}", highlight=False, soft_wrap=True, markup=False)


def _report(arguments: argparse.Namespace) -> None:
    from prap_pim.report.differences import read_runs
    from prap_pim.report.html.run import write_report
    from prap_pim.report.runs import print_runs, write_runs
    from prap_pim.report.study import write_study_report
    from prap_pim.report.terminal.run import print_results
    from prap_pim.results.folder import RunFolder

    folders = list({path.resolve(): RunFolder(path) for path in arguments.folders}.values())  # each once
    first = folders[0]
    output = arguments.output or (first.report if len(folders) == 1 else first.path / "runs.html")
    if arguments.output is not None:
        if output.suffix != ".html":
            raise UserError(f"--output {output}: the page is a file that ends in .html")
        check_writable(output)
    is_study = len(folders) == 1 and first.study.exists()
    if arguments.reuse and (is_study or len(folders) > 1):
        raise UserError("--reuse: only the page of one run has reuse maps")
    if is_study:
        study = first.read_study()
        write_study_report(study, output, first.config)
        _show_study(arguments, output, study)
        return
    if len(folders) > 1 and output.resolve() in [folder.report.resolve() for folder in folders]:
        raise UserError(f"--output {output}: that is the page of one run, which stays; choose another name")
    with progress_bars(arguments.quiet or arguments.json) as progress:
        runs = read_runs(folders)
        if len(runs) == 1:
            reuse = [(method, layer) for method, layer in arguments.reuse]
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


def _plot(arguments: argparse.Namespace) -> None:
    output, format_ = arguments.output, arguments.format
    if format_ is None:
        format_ = output.suffix[1:] if output is not None else "pdf"
        if format_ not in FORMATS:
            raise UserError(f"{output}: say what to write with --format ({', '.join(FORMATS)})")
    if output is None:
        output = Path(f"{arguments.figure}.{format_}")
    check_writable(output)
    methods = arguments.methods.split(",") if arguments.methods is not None else []
    of_study = arguments.figure in OF_STUDIES
    if of_study and (methods or len(arguments.folders) > 1):
        raise UserError(f"--figure {arguments.figure} shows one study, whose trials are not told apart by methods")
    told = ""
    with progress_bars(arguments.quiet or arguments.json):
        from prap_pim.report.differences import read_runs, verdict
        from prap_pim.report.figures import figure_table, study_table, write_figure
        from prap_pim.results.folder import RunFolder

        if of_study:
            table = study_table(arguments.figure, RunFolder(arguments.folders[0]).read_study())
        else:
            runs = read_runs([RunFolder(folder) for folder in arguments.folders])
            table = figure_table(arguments.figure, arguments.folders, [run.results for run in runs], methods)
            found = verdict(runs)
            told = "" if len(runs) == 1 or found.alike else " ".join(found.sentences)
        write_figure(arguments.figure, table, output, format_, arguments.width)
    if told and not arguments.quiet:
        print(f"prap-pim: {one_line(told)}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"figure": arguments.figure, "file": str(output), **table.as_json()}, allow_nan=False))
    elif not arguments.quiet:
        print(f"written: {output}")


def _simulate(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in _run
    with progress_bars(arguments.quiet or arguments.json) as progress:
        from prap_pim.results.folder import RunFolder

        RunFolder(arguments.folder).check_finished()
        from prap_pim.runs.simulate import Crossbars, Request, Sweep, simulate_run  # torch, as in _run

        given = {key: getattr(arguments, key) for key in ("samples", "devices", "seed", "processes", "name")}
        request = Request.checked(
            {
                **{key: value for key, value in given.items() if value is not None},
                "methods": arguments.methods.split(",") if arguments.methods is not None else None,
                "sweep": Sweep.parse(arguments.sweep) if arguments.sweep is not None else None,
            },
            "simulate",
        )
        crossbars = Crossbars.read(arguments.device, arguments.overrides)
        command = shlex.join(["prap-pim", *sys.argv[1:]])
        _, simulation = simulate_run(arguments.folder, request, crossbars, command, progress)
    if arguments.json:
        print(simulation.model_dump_json())
    elif not arguments.quiet:
        from prap_pim.report.terminal.run import print_simulation

        console = Output()
        print_simulation(simulation, console)
        report = arguments.folder / "report.html"
        console.print(f"report: {report}", highlight=False, soft_wrap=True, markup=False)


def _compress(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in _run
    with progress_bars(arguments.quiet or arguments.json) as progress:
        from prap_pim.api.onnx import compress_onnx
        from prap_pim.common.settings import Settings, with_overrides
        from prap_pim.report.terminal.onnx import print_summary

        class Request(Settings):
            ratio: float | None = None
            max_drop: float | None = None
            seed: int = 0

        given = {key: value for key in Request.model_fields if (value := getattr(arguments, key)) is not None}
        request = Request.checked(given, "compress")
        options = with_overrides({}, arguments.overrides)
        quantize = options.pop("quantize", None)
        if request.max_drop is not None:
            options["max_drop"] = request.max_drop
        summary = compress_onnx(
            arguments.model,
            arguments.calibration,
            arguments.output,
            arguments.method,
            compute_ratio=request.ratio,
            chip=arguments.chip,
            skip=arguments.skip,
            seed=request.seed,
            plan=arguments.plan,
            options=options,
            quantize=quantize,
            bit_true=arguments.bit_true,
            batch_axes=_batch_axes(arguments.batch_axes),
            progress=progress,
        )
    if arguments.json:
        print(summary.model_dump_json())
    elif not arguments.quiet:
        print_summary(summary, Output())


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


def _replay(arguments: argparse.Namespace) -> None:
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


def _completion(arguments: argparse.Namespace) -> None:
    import shtab

    parser = _parser()
    for command in parser.commands.values():
        for action in command._actions:
            if action.type is Path:
                folder = action.metavar in ("RUN", "FOLDER")
                vars(action)["complete"] = shtab.DIRECTORY if folder else shtab.FILE
    print(shtab.complete(parser, arguments.shell))


def _show(arguments: argparse.Namespace, folder: Path, results: "Results", details: bool = False) -> None:
    from prap_pim.report.terminal.run import print_results

    if arguments.json:
        print(results.model_dump_json())
    elif not arguments.quiet:
        console = Output()
        print_results(results, console, details)
        console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True, markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    open_streams()
    command, code = None, None
    try:
        parser = _parser()
        arguments = parser.parse_args(argv)
        arguments.given = sys.argv[1:] if argv is None else argv
        command = arguments.command
        if command is None:
            parser.print_help()
        else:
            code = arguments.handler(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        how = {"simulate": "the same command goes on"} | dict.fromkeys(_RESUMABLE, "go on with --resume")
        return _complain(f"interrupted; {how.get(command or '', 'nothing was written')}", 130)
    except BrokenPipeError:
        discard_output()  # the reader of our output went away: nothing is wrong
    except OSError as error:
        discard_output()
        where = "cannot write to the output" if error.filename is None else f"cannot use {error.filename}"
        return _complain(f"{where}: {error.strerror or error}", 2)
    except MemoryError:
        return _complain("out of memory", 1)
    except Exception as error:
        if "PRAP_PIM_TRACEBACK" in os.environ:
            raise
        what = f"{type(error).__name__}: {error}"
        return _complain(f"a fault of the program: {what} (with PRAP_PIM_TRACEBACK=1 it says where)", 1)
    return code or 0


def _complain(what: object, code: int) -> int:
    print(f"prap-pim: {one_line(what)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
