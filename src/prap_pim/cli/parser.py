"""The commands and their arguments."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from prap_pim.report.figure_names import FIGURES, FORMATS, WIDTHS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE = "_PRAP_PIM_COMPLETE"  # the variable through which a completion script asks; click derives it from the name
SHELLS = ("bash", "zsh", "fish")
PACKAGE = Path(__file__).parents[1]
EXAMPLES = sorted(path.stem for path in (PACKAGE / "examples").glob("*.yaml"))
STUDIES = ("explore", "presets")  # among them; a file is not read for --help
METHODS = ("calibrated", "lowbit", "similar", "identical", "orc", "structured", "pattern", "prap", "dense")
ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed")


_WRITTEN = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")  # a number as people write it, not 1_0 or one in other digits
_DIGITS = 16


class Place(click.Path):
    """A path; an empty one would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("must not be empty", param, ctx)
        return super().convert(value, param, ctx)


FILE = Place(path_type=Path)
FOLDER = Place(path_type=Path, file_okay=False)


class Choice(click.Choice[str]):
    """A choice whose error message names the nearest allowed value."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        from prap_pim.common.settings import nearest  # imported here: --help should not wait for pydantic

        return f"{value!r} is unknown, {nearest(str(value), self.choices)}"


class Number(click.ParamType[float]):
    """A number whose error message says what is expected, as those about configurations do."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value) if _WRITTEN.fullmatch(str(value)) else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"must be a number, not {str(value)[:60]!r}", param, ctx)
        return number


class Whole(click.ParamType[int]):
    """A whole number, within limits if there are any; as ``Number``."""

    name = "whole number"

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not _WRITTEN.fullmatch(text := str(value)) or len(text) > _DIGITS or not text.lstrip("+-").isdigit():
            self.fail(f"must be a whole number, not {text[:60]!r}", param, ctx)
        number = int(value)
        if self.least is not None and number < self.least:
            self.fail(f"must be at least {self.least}, not {number}", param, ctx)
        if self.most is not None and number > self.most:
            self.fail(f"must be at most {self.most}, not {number}", param, ctx)
        return number


class Command(click.Command):
    """A command whose mistakes are all of its own: of some, Click does not say in which command they were made."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class Group(Command, click.Group):
    """A group that lists its commands in the order in which a user needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Pattern pruning and reuse on ReRAM processing-in-memory: train a network, compress it, compute its cost, "
    "and check the result bit by bit.",
    epilog="\b\n"
    "exit codes: 0 done, 1 a fault of the program, 2 invalid input (one line says what is wrong), 130 interrupted\n"
    "example: prap-pim run --example digits",
)
@click.version_option(package_name="prap-pim", message="prap-pim %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _add(name: str, summary: str, parameters: Sequence[click.Parameter], example: str, more: str = "") -> None:
    """Add the command whose handler is the function of ``commands`` with its name."""

    def handle(**values: Any) -> int | None:
        from prap_pim.cli import commands  # imported here: --help should not wait for pydantic and rich

        handler: Callable[[SimpleNamespace], int | None] = getattr(commands, name)
        return handler(SimpleNamespace(words=click.get_current_context().obj, **values))

    cli.add_command(
        Command(
            name,
            callback=handle,
            params=list(parameters),
            help=f"{summary[0].upper()}{summary[1:]}.{more}",
            short_help=summary,
            epilog=f"\b\n{example}",
        )
    )


def _option(*names: str, **settings: Any) -> click.Option:
    settings["help"] += "; may be repeated" if settings.get("multiple") else ""
    return click.Option(names, **settings)


def _words(
    *known: str, file: bool = False
) -> "Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]":
    """Completes words that are known before anything is loaded, or else a file if that would do."""

    def complete(_: click.Context, __: click.Parameter, begun: str) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem  # imported here: only a shell asks for it

        found = [CompletionItem(word) for word in known if word.startswith(begun)]
        return found or ([CompletionItem(begun, type="file")] if file else [])

    return complete


def _stems(folder: Path, suffix: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(f"*{suffix}"))


def _set(help_text: str) -> click.Option:
    return _option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=help_text)


def _methods(help_text: str) -> click.Option:
    return _option("--methods", type=lambda text: text.split(","), metavar="NAME,NAME", help=help_text)


OUTPUT_FLAGS = [
    _option("--quiet", is_flag=True, help="print only errors, and with --json the results"),
    _option("--json", is_flag=True, help="print the results as JSON and nothing else"),
]
ALLOW_IMPORTS = _option(
    "--allow-imports", is_flag=True, help="run the code that the configuration names: {import: ...}"
)
CONFIG_OPTIONS = [
    ALLOW_IMPORTS,
    _option("--output", type=FOLDER, metavar="FOLDER", help="run folder (default: `output` of the config)"),
    _option("--resume", is_flag=True, help="continue an unfinished run in that folder"),
    _set("change a setting, with dots between nested keys"),
    *OUTPUT_FLAGS,
]


def _config(*examples: str) -> list[click.Parameter]:
    """A configuration: a file, or one of these examples."""
    return [
        click.Argument(["config"], type=FILE, required=False, help="a YAML file, such as `prap-pim example` prints"),
        _option(
            "--example",
            type=Choice(examples),
            metavar="NAME",
            help=f"instead of a file, one that comes with the package: {', '.join(examples)}",
        ),
    ]


RUN_ARGUMENTS = [
    *_config(*(name for name in EXAMPLES if name not in STUDIES and not name.startswith("device-"))),
    *CONFIG_OPTIONS,
    _option("--devices", metavar="N", help="training processes, with a GPU each if there are any (default: 1)"),
    _option("--nodes", metavar="M", help="machines with N processes each, see docs/training.md (default: 1)"),
    _option(
        "--accelerator",
        metavar="NAME",
        help="train on cpu, cuda or auto (default: auto)",
        shell_complete=_words(*ACCELERATORS),
    ),
    _option(
        "--precision",
        metavar="P",
        help="train with 32-true or bf16-mixed (default: 32-true)",
        shell_complete=_words(*PRECISIONS),
    ),
]
RUNS = click.Argument(
    ["folders"], type=FOLDER, nargs=-1, required=True, metavar="RUN...", help="folders of runs, or of one study"
)
PROCESSES = _option(
    "--processes", type=Whole(1, 1024), metavar="P", help="parallel processes (default: one per core, if memory allows)"
)

_add(
    "run",
    "train, compress, map, cost and check; writes a run folder with results.json and report.html",
    RUN_ARGUMENTS,
    "example: prap-pim run examples/digits.yaml --output runs/mine --set training.epochs=30\n"
    "example of two processes: prap-pim run examples/digits.yaml --output runs/two "
    "--set training.shards=2 --devices 2",
)
_add(
    "compare",
    "like run, for chosen methods; prints every figure and writes comparison.csv",
    [*RUN_ARGUMENTS, _methods("methods of the configuration, in this order")],
    "example: prap-pim compare examples/digits-compare.yaml --methods dense,orc,prap --output runs/three",
)
_add(
    "explore",
    "search chips and compressions for Pareto-optimal points; writes study.json and report.html",
    [
        *_config(*STUDIES),
        *CONFIG_OPTIONS,
        PROCESSES,
        _option("--scheduler", metavar="ADDRESS", help="run the trials on a Dask cluster instead: tcp://host:port"),
    ],
    "example: prap-pim explore examples/explore.yaml --output runs/mine --set trials=50",
)
_add(
    "report",
    "print a finished run's table and write its report.html again; of several runs, compare them on one page",
    [
        RUNS,
        _option(
            "--output",
            type=FILE,
            metavar="FILE",
            help="the page (default: report.html of the run; of several runs, runs.html in the first one's folder)",
        ),
        _option(
            "--reuse",
            nargs=2,
            multiple=True,
            metavar="METHOD LAYER",
            help="show this layer's whole reuse map, and no other",
        ),
        *OUTPUT_FLAGS,
    ],
    "examples: prap-pim report runs/digits; prap-pim report runs/digits runs/three --output both.html",
)
_add(
    "plot",
    "a figure for a paper, or the table behind it, from one finished run or several",
    [
        RUNS,
        _option("--figure", type=Choice(FIGURES), required=True, metavar="NAME", help="see above"),
        _option(
            "--format", type=Choice(FORMATS), metavar="FORMAT", help=f"{', '.join(FORMATS)} (default: suffix, or pdf)"
        ),
        _option("-o", "--output", type=FILE, metavar="FILE", help="default: FIGURE.FORMAT, here"),
        _methods("methods of the runs, in this order; gains are over the first"),
        _option("--width", type=Choice(WIDTHS), metavar="WIDTH", help="column (3.5 in) or page (7.16 in)"),
        *OUTPUT_FLAGS,
    ],
    "example: prap-pim plot runs/digits --figure speedup --format pdf",
    more="\n\n\b\n" + "\n".join(f"  {name:<14} {shows}" for name, shows in FIGURES.items()),
)
_add(
    "simulate",
    "accuracy of a finished run's methods on crossbars with device effects; added to its results and report",
    [
        click.Argument(["folder"], type=FOLDER, metavar="RUN", help="the folder of a finished run"),
        _methods("methods of the run (default: all)"),
        _option("--device", type=FILE, metavar="FILE", help="settings of the crossbars and their cells, YAML"),
        _set("change one of these settings, as device.variation.sigma=0.1"),
        _option(
            "--sweep", metavar="NAME=VALUES", help="try several values: sigma=0,0.1, adc-bits=3,4 or fault-rate=0,0.01"
        ),
        _option("--samples", type=Whole(), metavar="N", help="use the first N test images (default: all)"),
        _option("--devices", type=Whole(), metavar="M", help="simulated devices with random errors (default: 5)"),
        _option("--seed", type=Whole(), metavar="S", help="seed of the devices' errors (default: 0)"),
        PROCESSES,
        ALLOW_IMPORTS,
        _option("--name", metavar="NAME", help="name in the report; an earlier one of this name is replaced"),
        *OUTPUT_FLAGS,
    ],
    "example: prap-pim simulate runs/digits --device examples/device-variation.yaml --sweep sigma=0,0.1,0.2",
)
_add(
    "compress",
    "compress the weights of a model on calibration inputs, without labels or training",
    [
        click.Argument(
            ["model"], type=FILE, help="an ONNX file, a folder of transformers, or {...} as under model: of a run"
        ),
        _option(
            "--calibration",
            type=FILE,
            required=True,
            metavar="FILE",
            help="npz file (an array [N, ...] per input), folder of pictures, text file, or {...} as under "
            "data: of a run",
        ),
        _option(
            "-o",
            "--output",
            type=FILE,
            required=True,
            metavar="FILE",
            help="the compressed ONNX model, or a folder for a PyTorch model",
        ),
        _option("--checkpoint", type=FILE, metavar="FILE", help="weights of a model that is made by name or function"),
        _option("--tokenizer", type=FOLDER, metavar="FOLDER", help="of transformers, for a text file (else bytes)"),
        ALLOW_IMPORTS,
        _option(
            "--method",
            default="calibrated",
            metavar="NAME",
            help=f"{METHODS[0]} (default), {', '.join(METHODS[1:-1])} or {METHODS[-1]}",
            shell_complete=_words(*METHODS),
        ),
        _option("--ratio", type=Number(), metavar="R", help="OU steps of the whole model over those of the dense one"),
        _option(
            "--budget",
            metavar="NAME=R",
            help="calibrated or lowbit, instead of --ratio: compute, energy, latency or interval over the dense one's",
        ),
        _option(
            "--max-drop",
            type=Number(),
            metavar="D",
            help="calibrated or lowbit, instead of both: share of inputs that may change class",
        ),
        _set("another setting of the method, as keep=0.25 of similar, quantize.KEY of int8 inputs, or tune.KEY"),
        _option("--skip", multiple=True, metavar="NAME", help="leave this layer dense; * and ? match several"),
        _option(
            "--batch-axis",
            "batch_axes",
            multiple=True,
            metavar="NAME=AXIS",
            help="batch axis of an input if it cannot be inferred; none: it has no batch",
        ),
        _option(
            "--chip",
            default="isaac-32nm",
            metavar="CHIP",
            help="a preset, or a TOML file (default: isaac-32nm)",
            shell_complete=_words(*_stems(PACKAGE / "hardware" / "chips", ".toml"), file=True),
        ),
        _option("--seed", type=Whole(), default=0, metavar="S", help="seed of the calibration (default: 0)"),
        _option(
            "--tune", type=Whole(), metavar="N", help="then train to the model's own outputs, N steps, without labels"
        ),
        _option("--bit-true", type=FILE, metavar="FILE", help="also write a model that computes as the crossbars do"),
        _option("--plan", type=FILE, metavar="FILE", help="also save the plan (.safetensors)"),
        *OUTPUT_FLAGS,
    ],
    "example: prap-pim compress model.onnx --calibration data.npz --ratio 0.25 --output small.onnx",
)
_add(
    "replay",
    "run the cost model on published per-layer ratios, to compare it with the authors' own",
    [
        click.Argument(
            ["preset"],
            help="published settings, and the chip of that name: prap-2023",
            shell_complete=_words(*_stems(PACKAGE / "methods", ".json")),
        ),
        _option("--network", multiple=True, metavar="NAME", help="default: all"),
        _option("--method", multiple=True, metavar="NAME", help="default: all"),
        _option("--mapped", is_flag=True, help="map random weights and count, instead of using ratios"),
        *OUTPUT_FLAGS,
    ],
    "example: prap-pim replay prap-2023 --network vgg16 --method prap",
)
_add(
    "reproduce",
    "compare what a paper claims with what its figures and real mappings give here, in about a minute",
    [
        click.Argument(
            ["preset"],
            default="prap-2023",
            help="published settings, and the chip of that name (default: prap-2023)",
            shell_complete=_words(*_stems(PACKAGE / "methods", ".json")),
        ),
        _option("--network", multiple=True, metavar="NAME", help="default: all"),
        *OUTPUT_FLAGS,
    ],
    "example: prap-pim reproduce prap-2023",
)
_add(
    "example",
    "print an example's file, to begin your own with, or what examples there are",
    [click.Argument(["name"], type=Choice(EXAMPLES), required=False, metavar="NAME", help="without: all, a line each")],
    "example: prap-pim example digits",
)


@cli.command(
    cls=Command,
    short_help="print a script that makes a shell complete commands, options and files",
    epilog='\b\nexample: eval "$(prap-pim completion bash)"',
)
@click.argument("shell", type=Choice(SHELLS), metavar="SHELL", help=", ".join(SHELLS))
def completion(shell: str) -> None:
    """Print a script that makes a shell complete commands, options and files."""
    from click.shell_completion import get_completion_class  # imported here: only this command needs it

    script = get_completion_class(shell)
    assert script is not None  # Click knows these three
    print(script(cli, {}, "prap-pim", COMPLETE).source(), end="")
