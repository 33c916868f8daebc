"""The command line: the functions' tables and files, errors in one line, exit statuses, help that cannot drift."""

import inspect
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import lfmlib
from lfmlib.book import model_report
from lfmlib.cli.commands import DONE, FAILED, STOPPED, WRONG, cli, main
from lfmlib.merging.methods import METHODS, PROJECTIONS
from lfmlib.provenance import ROOT
from lfmlib.surveys.table_files import SUFFIXES

FUNCTIONS = {
    "survey": lfmlib.survey,
    "compare": lfmlib.compare,
    "merge": lfmlib.merge,
    "overlap": lfmlib.overlap,
    "report": model_report.report,
}
SUBJECTS = {"source", "base", "tuned", "model", "out"}
"""Parameters that are arguments of the command, or (``out``) required options."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base, and two models that were tuned from it."""
    home = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    roles = ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")
    base = {f"model.layers.{i}.{role}.weight": 0.02 * draw(64, 96) for i in range(4) for role in roles}
    base |= {"model.norm.weight": torch.ones(64), "ids": torch.arange(6).reshape(2, 3), "model.bias": draw(64)}
    for name, size in {"base": 0.0, "first": 0.002, "second": 0.004}.items():
        model = {key: one + size * draw(*one.shape) if one.is_floating_point() else one for key, one in base.items()}
        (home / name).mkdir()
        save_file(model, home / name / "model.safetensors")
    return home


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run a command among the models; its status, stdout and the lines of stderr."""
    monkeypatch.chdir(folder)

    def call(line: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        status = main(shlex.split(line))
        said = capsys.readouterr()
        return status, said.out, said.err.splitlines()

    return call


def read(path: Path) -> pd.DataFrame:
    """A table from a file, its shapes as tuples."""
    if path.suffix == ".json":
        table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))).replace(
            {"Infinity": math.inf, "-Infinity": -math.inf}
        )
    else:
        table = {".csv": pd.read_csv, ".parquet": pd.read_parquet}[path.suffix](path)
    if "shape" in table:
        load = json.loads if path.suffix == ".csv" else list
        table["shape"] = [tuple(load(one)) for one in table["shape"]]
    return table


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(found) == list(expected)
    for name in expected:
        for a, b in zip(found[name], expected[name], strict=True):
            assert a == b or (b == "" and pd.isna(a)) or (pd.isna(a) and pd.isna(b)), name


@pytest.mark.parametrize(
    "line, function, options",
    [
        ("survey base", lfmlib.survey, {"source": "base"}),
        ("survey base --select q_proj --sample 16384", lfmlib.survey,
         {"source": "base", "select": "q_proj", "sample": 16384}),
        ("compare base first --controls noise,permuted --seed 3", lfmlib.compare,
         {"base": "base", "tuned": "first", "controls": ["noise", "permuted"], "seed": 3}),
        ("overlap base first second --select down", lfmlib.overlap,
         {"base": "base", "tuned": ["first", "second"], "select": "down"}),
    ],
)  # fmt: skip
def test_files_hold_the_functions_table(run, tmp_path, line, function, options):
    expected = function(**options, progress=False)
    for suffix in SUFFIXES:
        path = tmp_path / f"table{suffix}"
        assert run(f"{line} --out {path}")[:2] == (DONE, f"{path}\n")
        same(read(path), expected)
    assert read(tmp_path / "table.parquet").attrs == expected.attrs
    assert {one.name for one in tmp_path.iterdir()} == {f"table{suffix}" for suffix in SUFFIXES}


def test_what_is_kept_is_taken_up(run, tmp_path):
    assert run(f"survey base --keep {tmp_path / 'kept'}")[0] == DONE
    assert len((tmp_path / "kept" / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 12


def test_a_pipe_gets_all_rows_and_columns_as_text(run):
    status, out, err = run("survey base --rows 2")
    expected = lfmlib.survey("base", progress=False)
    head, *rows = (line.split() for line in out.splitlines())
    assert status == DONE and head == list(expected) and len(rows) == len(expected) == 12
    assert [row[0] for row in rows] == expected["tensor"].tolist()
    assert {len(row) for row in rows} == {len(head)}, "a cell that is empty or holds a blank"
    assert [float(row[head.index("std")]) for row in rows] == pytest.approx(expected["std"].tolist(), rel=1e-5)
    assert rows[0][head.index("shape")] == "64×96"
    assert err == [
        "lfmlib survey: skipped 3 tensors: 2 × 1-D: not a matrix; 1 × int64: not a floating-point type this survey "
        "counts"
    ]


@pytest.mark.parametrize("width", [50, 100, 200])
def test_a_terminal_gets_what_fits_and_is_told_of_the_rest(run, monkeypatch, width):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, err = run("survey base --rows 5")
    lines = [click.unstyle(line) for line in out.splitlines()]
    assert status == DONE and max(map(len, lines)) <= width
    assert lines[0].split()[:2] == ["tensor", "kl_bits"] and "…" not in out
    assert err[-1].startswith("lfmlib survey: shown are 5 of 12 rows and ") and "--out" in err[-1]
    assert len(run("survey base --rows 0")[1]) > len(out)


NAMES = ["h.0.attn.c_attn[q]", "x[/q]", "\x1b[31mred\nb\u202ec"]


@pytest.mark.parametrize("terminal", ["0", "1"])
def test_names_are_shown_as_they_are_and_obeyed_by_no_terminal(run, monkeypatch, tmp_path, terminal):
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    save_file({name: torch.randn(64, 64) for name in NAMES}, tmp_path / "model.safetensors")
    status, out, _ = run(f"survey {tmp_path}")
    begins = [click.unstyle(line).split()[0] for line in out.splitlines()[1:]]
    assert status == DONE and sorted(begins) == sorted([*NAMES[:2], "\\x1b[31mred\\nb\\u202ec"])
    save_file({NAMES[2]: torch.zeros(3)}, tmp_path / "model.safetensors")
    assert "\x1b" not in "".join(run(f"survey {tmp_path}")[2])


def test_models_at_hand_are_listed(run, monkeypatch):
    status, out, err = run("models")
    assert status == DONE and not err
    head, *rows = out.splitlines()
    assert "licence" in head.split() and any(row.split()[0] == "minilm" and " yes " in row for row in rows)


def test_merge_writes_what_the_function_writes(run, tmp_path):
    line = "merge base first second --method average --weights 1,0.5 --amplify 1.5 --dtype bfloat16"
    assert run(f"{line} --out {tmp_path / 'one'}")[:2] == (DONE, f"{tmp_path / 'one'}\n")
    options = {"method": "average", "weights": [1, 0.5], "amplify": 1.5, "dtype": "bfloat16"}
    lfmlib.merge("base", ["first", "second"], **options, out=tmp_path / "two", progress=False)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "line, words",
    [
        ("survey nowhere/at/all", "'nowhere/at/all' was not found"),
        ("survey base --select (", "is not a regular expression"),
        ("survey base --sample 0", "expected a number of bytes"),
        ("survey base --smaple 3", "No such option '--smaple'"),
        ("survey base --sample many", "'many' is not a valid integer"),
        ("survey base --out table.xlsx", "expected .csv, .parquet or .json"),
        ("survey base --out nowhere/table.csv", "there is no folder nowhere"),
        ("survey", "Missing argument 'MODEL'"),
        ("surveys base", "No such command 'surveys'"),
        ("compare base first --controls noise,silence", "unknown control 'silence'"),
        ("compare minilm first", "no matrix in common"),
        ("overlap base base", "ΔW is exactly zero"),
        ("merge base first --out second", "is there already"),
        ("merge base first --weights 1,x --out new", "expected numbers, with commas between"),
        ("merge base first --method best --out new", "'best'"),
        ("merge base first", "Missing option '--out'"),
        ("report nowhere/at/all -o r.html", "'nowhere/at/all' was not found"),
        ("report base -o nowhere/r.html", "there is no folder"),
        ("report base -o base", "is a folder, where the name of an HTML file was expected"),
        ("report base -o r.html --results base/model.safetensors/x", "nothing can be written to"),
        ("report base --profile hasty -o r.html", "'hasty' is not one of"),
    ],
)
def test_wrong_input_is_told_in_one_line(run, line, words):
    status, out, err = run(line)
    command = line.split()[0] if line.split()[0] in cli.commands else ""
    assert status == WRONG and not out
    assert len(err) == 1 and err[0].startswith(f"lfmlib {command}".strip() + ": ") and words in err[0], err


def test_without_a_command_the_help_is_shown(run):
    status, out, err = run("")
    assert status == WRONG and not out and any(line.split()[:1] == ["survey"] for line in err)


def test_debug_shows_the_traceback(run):
    status, _, err = run("survey nowhere/at/all --debug")
    assert status == WRONG and err[0].startswith("Traceback") and err[-1].startswith("lfmlib survey: 'nowhere")


def test_what_fails_otherwise_is_told_with_its_kind(run, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(lfmlib, "survey", broken)
    assert run("survey base") == (FAILED, "", ["lfmlib survey: RuntimeError: two lines"])


def test_warnings_are_told_in_one_line(run, tmp_path):
    status, _, err = run(f"survey base --sample 100 --out {tmp_path / 't.csv'}")
    assert status == DONE
    assert err[0].startswith("lfmlib survey: sample=100: of so few bytes") and "Warning" not in "".join(err)


def interrupted(*arguments, **options) -> pd.DataFrame:
    table = survey("base", progress=False).head(3)
    table.attrs = {"skipped": dict.fromkeys("abc", "interrupted before it was measured"), "interrupted": True}
    return table


survey = lfmlib.survey


def test_ctrl_c_keeps_the_rows_that_were_finished(run, monkeypatch, tmp_path):
    monkeypatch.setattr(lfmlib, "survey", interrupted)
    status, out, err = run("survey base")
    assert status == STOPPED and len(out.splitlines()) == 4
    assert err[-1] == "lfmlib survey: stopped; the 3 rows that were finished are in the table"
    assert "the same command goes on" in run(f"survey base --keep {tmp_path}")[2][-1]


def test_ctrl_c_says_what_is_kept(run, monkeypatch, tmp_path):
    def stopped(*arguments, out=None, **options):
        if out:
            Path(f"{out}.partial").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(lfmlib, "merge", stopped)
    monkeypatch.setattr(lfmlib, "overlap", stopped)
    status, _, err = run(f"merge base first --out {tmp_path / 'new'}")
    assert status == STOPPED and err == [
        f"lfmlib merge: stopped; what was written is kept in {tmp_path / 'new'}.partial: the same command goes on from "
        "there"
    ]
    assert run("overlap base first") == (STOPPED, "", ["lfmlib overlap: stopped; nothing was kept"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_lists_every_option_of_the_function(run, name):
    status, out, _ = run(f"{name} --help")
    assert status == DONE
    command = cli.commands[name]
    subjects = ["x" for one in command.params if isinstance(one, click.Argument)]
    parsed = command.make_context(name, [*subjects, "--out", "new.csv"]).params
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        if parameter.name in SUBJECTS | {"executor"}:  # an executor is an object of Python
            continue
        assert f"--{parameter.name}" in out and parameter.name in parsed, f"lfmlib {name} has no --{parameter.name}"
        if parameter.name != "progress":  # a bar is for a terminal
            given, default = parsed[parameter.name], parameter.default
            assert given == (list(default) if isinstance(default, tuple) else default), parameter.name


def test_help_names_every_method(run):
    out = run("merge --help")[1]
    assert all(name in out for name in (*METHODS, *PROJECTIONS))


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_example_of_the_help_parses(run, name):
    out = run(f"{name} --help")[1]
    (example,) = [line.strip() for line in out.splitlines() if line.startswith("    lfmlib ")]
    program, command, *arguments = shlex.split(example)
    assert (program, command) == ("lfmlib", name)
    cli.commands[command].make_context(command, arguments)


def test_help_does_not_wait_for_torch():
    asked = "import sys, lfmlib.cli; lfmlib.cli.main(['survey', '--help'])"
    code = f"{asked}; assert not {{'torch', 'pandas', 'rich'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_python_m_and_its_streams(folder):
    command = [sys.executable, "-m", "lfmlib", "survey", str(folder / "base"), "--select", "layers.0"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == DONE and len(done.stdout.splitlines()) == 4 and not done.stderr


def test_a_terminal_that_lacks_letters_ends_no_command():
    command, narrow = (
        [sys.executable, "-m", "lfmlib", "compare", "--help"],
        os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    done = subprocess.run(command, capture_output=True, encoding="latin-1", cwd=ROOT, env=narrow)
    assert done.returncode == DONE and r"\u0394W = W - W\u2080" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_machine_without_a_locale_reads_and_writes_every_name(tmp_path):
    """Names in a path, in config.json and of tensors (langgraph#8665, python-dotenv#74, bpython#735)."""
    model = tmp_path / "Modèle ΔW"
    model.mkdir()
    save_file({"Schicht.0.gewöhnlich.weight": torch.randn(64, 64)}, model / "model.safetensors")
    (model / "config.json").write_text('{"architectures": ["Größe"]}', encoding="utf-8")
    code = (
        "import pathlib, lfmlib; from lfmlib import findings; from lfmlib.provenance import provenance\n"
        "model = next(one for one in pathlib.Path('.').iterdir() if one.is_dir())\n"
        "checkpoint = lfmlib.open_checkpoint(model)\n"
        "lfmlib.survey(checkpoint, progress=False, keep='kept').to_csv('matrices.csv', index=False)\n"
        "findings.write(findings.Finding.of('F1', checkpoint.name, provenance(checkpoint), {}, value=0.5), 'found')"
    )
    bare = {key: one for key, one in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONIO"))}
    plain = bare | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=plain, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "matrices.csv", encoding="utf-8")
    assert table["tensor"].tolist() == ["Schicht.0.gewöhnlich.weight"]
    (found,) = lfmlib.findings.load(tmp_path / "found")
    assert found.model.encode("utf-8", "surrogateescape").decode() == "Modèle ΔW"


@pytest.mark.slow
def test_a_report_from_any_folder(run, tmp_path):
    before = sorted(ROOT.glob("_build/*"))
    page, kept = tmp_path / "r.html", tmp_path / "kept"
    line = f"report first --base base --profile quick --out {page} --results {kept} --no-progress"
    status, out, err = run(line)
    assert (status, out) == (DONE, f"{page}\n"), err
    text = page.read_text(encoding="utf-8")
    assert "Figure 13.1" in text and "std ΔW" in text and str(kept / "report") in text
    matrices = pd.read_parquet(*(kept / "report").glob("first-*/matrices.parquet"))
    assert matrices["kl_bits"].tolist() == lfmlib.survey("first", progress=False)["kl_bits"].tolist()
    assert sorted(ROOT.glob("_build/*")) == before


@pytest.fixture
def wheel(tmp_path) -> Path:
    """This library built into a wheel, from the files that git knows, and unpacked."""
    pytest.importorskip("setuptools.build_meta")
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, check=True, encoding="utf-8").stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "source", check=True, capture_output=True)
    shutil.rmtree(tmp_path / "source")
    (built,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(built, tmp_path / "site", "zip")
    return tmp_path / "site"


@pytest.mark.slow
def test_a_report_from_the_wheel(folder, wheel, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()

    def python(*arguments: str) -> subprocess.CompletedProcess:
        surroundings = os.environ | {"PYTHONPATH": str(wheel)}
        return subprocess.run(
            [sys.executable, *arguments], cwd=place, env=surroundings, capture_output=True, encoding="utf-8"
        )

    assert python("-c", "import lfmlib; print(lfmlib.__file__)").stdout.startswith(str(wheel))
    files = sorted(path for path in wheel.rglob("*") if "__pycache__" not in path.parts)
    done = python("-m", "lfmlib", "report", str(folder / "first"), "-o", "r.html", "--profile", "quick")
    assert (done.returncode, done.stdout) == (DONE, f"{place / 'r.html'}\n"), done.stderr
    page = (place / "r.html").read_text(encoding="utf-8")
    assert "Figure 13.1" in page and "lfmlib report --results FOLDER" in page and ".lfm-scroll" in page
    assert [one.name for one in place.iterdir()] == ["r.html"]
    assert sorted(path for path in wheel.rglob("*") if "__pycache__" not in path.parts) == files


def test_usage_and_places_that_are_none_are_told_before_anything_is_done(tmp_path, capsys):
    (tmp_path / "o.csv").mkdir()
    (tmp_path / "file").touch()
    for words, message in (
        (["fetch"], "name the models to fetch, or give --all"),
        (["fetch", "--all", "minilm"], "name the models to fetch, or give --all"),
        (["survey", "minilm", "--out", str(tmp_path / "o.csv")], "o.csv is a folder: expected the name of a file"),
    ):
        assert main(words) == WRONG
        told = capsys.readouterr().err
        assert message in told and "Error" not in told
