"""The commands and their arguments."""

import argparse
from importlib.metadata import version
from pathlib import Path

from prap_pim.cli.commands import _compress, _explore, _plot, _replay, _report, _run, _simulate
from prap_pim.cli.output import Parser
from prap_pim.report.figure_names import FIGURES, FORMATS, WIDTHS

SHELLS = ("bash", "zsh", "fish")


def build_parser() -> Parser:
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


def _completion(arguments: argparse.Namespace) -> None:
    import shtab

    parser = build_parser()
    for command in parser.commands.values():
        for action in command._actions:
            if action.type is Path:
                folder = action.metavar in ("RUN", "FOLDER")
                vars(action)["complete"] = shtab.DIRECTORY if folder else shtab.FILE
    print(shtab.complete(parser, arguments.shell))
