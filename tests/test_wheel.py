"""The library installs: its wheel holds all it needs and works outside the tree, and importing it costs little."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import distribution, distributions, version
from pathlib import Path

import pandas as pd
import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from safetensors.torch import save_file

import lfmlib
from lfmlib.provenance import ROOT, version_of

HEAVY = ("scipy", "pandas", "pyarrow", "numba", "transformers", "peft", "huggingface_hub", "sklearn", "matplotlib")
"""Packages that reading a checkpoint does not need, and whose import takes a tenth of a second to several."""


def python(code: str, *arguments: object, program: object = sys.executable, folder: Path = ROOT, **env: str) -> str:
    """What a fresh interpreter prints."""
    command = [str(program), "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, cwd=folder, env=os.environ | env, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the tree stays clean; with this environment's setuptools if it is new enough."""
    folder = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns(".*", "_build", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "tree", ignore=leave)
    found = version_of("setuptools")
    here = ["--no-build-isolation"] if found != "not installed" and Version(found) >= Version("75") else []
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", *here]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(folder / "tree")], check=True)
    return next(folder.glob("*.whl"))


def environment(folder: Path, wheel: Path) -> tuple[Path, Path]:
    """The interpreter of a fresh environment with the wheel and nothing else, and the folder of its packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    program = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(program), "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", str(wheel)], check=True)
    return program, next(folder.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's interpreter, which finds all else where this one has it."""
    program, site = environment(tmp_path_factory.mktemp("environment"), wheel)
    # A folder named in a .pth file is searched, but its own .pth files, an editable lfmlib among them, are not read.
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return program


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """The wheel's interpreter, with what `pip install lfmlib` would bring and no extra."""
    program, site = environment(tmp_path_factory.mktemp("bare"), wheel)
    wanted, todo = set(), list(next(iter(distributions(name="lfmlib", path=[str(site)]))).requires or ())
    while todo:
        one = Requirement(todo.pop())
        if one.name in wanted or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        wanted.add(one.name)
        todo += distribution(one.name).requires or ()
    for name in {file.parts[0] for one in wanted for file in distribution(one).files or ()} - {".."}:
        if not (site / name).exists():
            (site / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    return program


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_table_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [path for kind in ("py", "pyi", "csv", "typed") for path in (ROOT / "lfmlib").rglob(f"*.{kind}")]
    assert {str(path.relative_to(ROOT)) for path in sources} <= names
    assert {name.split("/")[0] for name in names} == {"lfmlib", f"lfmlib-{lfmlib.__version__}.dist-info"}
    assert not [name for name in names if "test" in Path(name).name]


@pytest.mark.slow
def test_the_installed_library_measures_what_the_tree_does(installed, tmp_path):
    torch.manual_seed(0)
    save_file(
        {"a.weight": torch.randn(64, 96), "b.weight": torch.rand(80, 64).bfloat16()}, tmp_path / "made.safetensors"
    )
    told = python(
        "import sys, lfmlib; from lfmlib.distribution import nulls; from lfmlib.structure import random_matrices\n"
        "print(lfmlib.__version__, lfmlib.__file__, random_matrices.null(64, 96) is not None, sep='\\n')\n"
        "lfmlib.survey('made.safetensors', progress=False).to_pickle('table.pkl')",
        program=installed,
        folder=tmp_path,
        PYTHONPATH="",
    )
    number, file, _ = told.splitlines()
    assert number == version("lfmlib") == lfmlib.__version__
    assert Path(file).is_relative_to(installed.parents[1]) and "site-packages" in file
    here = lfmlib.survey(tmp_path / "made.safetensors", progress=False)
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "table.pkl"), here)


@pytest.mark.slow
def test_without_extras_tables_are_made_and_what_is_missing_is_named(bare, tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(64, 96)
    save_file({"a.weight": weight}, tmp_path / "base.safetensors")
    save_file({"a.weight": weight + 0.01 * torch.randn(64, 96)}, tmp_path / "tuned.safetensors")
    told = python(
        "import lfmlib; from pathlib import Path\n"
        "for table in (lfmlib.survey('base.safetensors'), lfmlib.compare('base.safetensors', 'tuned.safetensors')):\n"
        "    print(len(table))\n"
        "lfmlib.merge('base.safetensors', ['tuned.safetensors'], 'average', out='merged')\n"
        "Path('x.gguf').write_bytes(b'GGUF' + bytes(60)); Path('x.onnx').write_bytes(bytes(60))\n"
        "Path('lora').mkdir(); Path('lora/adapter_config.json').write_text('{}')\n"
        "more = lambda: lfmlib.compare('base.safetensors', 'lora')\n"
        "asked = {\n"
        "    'gguf': lambda: lfmlib.open_checkpoint('x.gguf'), 'onnx': lambda: lfmlib.open_checkpoint('x.onnx'),\n"
        "    'adapters': lambda: lfmlib.merge('base.safetensors', ['tuned.safetensors'], 'ties', out='other'),\n"
        "    'lab': lambda: __import__('lfmlib.lab'), 'book': lambda: __import__('lfmlib.plots')}\n"
        "for extra, ask in [*asked.items(), ('adapters', more)]:\n"
        "    try:\n"
        "        ask()\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(str(error).endswith(f\"run: pip install 'lfmlib[{extra}]'\"))",
        program=bare,
        folder=tmp_path,
        PYTHONPATH="",
    )
    assert told.split() == ["1", "1", *["True"] * 6]
    command = [str(bare.with_name("lfmlib")), "report", "base.safetensors", "--out", "r.html"]
    run = subprocess.run(
        command, capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, encoding="utf-8"
    )
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "pip install 'lfmlib[book]'" in run.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["build", "--profile", "quick"], ["report", "in", "out"]])
def test_the_book_without_its_extra_says_so_in_a_line(tmp_path, arguments):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['papermill'] = None\n", encoding="utf-8")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "lfmlib.book", *arguments]
    run = subprocess.run(command, capture_output=True, cwd=tmp_path, env=env, encoding="utf-8")
    wanted = "needs what is not installed here (papermill); run: pip install 'lfmlib[book]'\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"lfmlib.book {wanted}")
    code = "try:\n    import lfmlib.book\nexcept ModuleNotFoundError as error:\n    print(error)"
    told = python(code, folder=tmp_path, PYTHONPATH=env["PYTHONPATH"])
    assert told == f"lfmlib.book {wanted}"


@pytest.mark.slow
def test_an_installed_copy_keeps_nothing_beside_its_packages(installed, tmp_path):
    """Results and records lie where its user stands; the book itself needs the tree, which is said in a sentence."""
    site = next(installed.parents[1].glob("lib/python*/site-packages"))
    before = sorted(path.name for path in site.iterdir())
    code = "from lfmlib import records; from lfmlib.book import notebook; print(records.FOLDER); print(notebook.HOME)"
    told = python(code, program=installed, folder=tmp_path, PYTHONPATH="")
    assert told.splitlines() == [str(tmp_path / "records"), str(tmp_path)]
    for command in ("build", "render"):
        run = subprocess.run(
            [installed, "-m", "lfmlib.book", command],
            capture_output=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": ""},
            encoding="utf-8",
        )
        assert run.returncode == 2 and "is an installed copy of the library" in run.stderr, run.stderr
        assert run.stderr.count("\n") == 1 and "`lfmlib report MODEL`" in run.stderr
    assert sorted(path.name for path in site.iterdir()) == before


@pytest.mark.slow
def test_reading_records_imports_no_library_that_builds_models():
    """Each of a book's chapters is a process of its own, and most of them only read what experiments left."""
    code = """
import importlib, pkgutil, sys
import lfmlib.chapters, lfmlib.experiments
for package in (lfmlib.experiments, lfmlib.chapters):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
heavy = ("transformers.modeling_utils", "peft", "sklearn", "torch._dynamo", "onnx", "gguf")
print([name for name in heavy if name in sys.modules])
"""
    assert python(code).strip() == "[]"
    build = "from lfmlib.lab import models; print(models.build({!r}, 0).config.model_type)"
    names = ("vit", "decoder", "clip")
    assert alone("import torch, lfmlib.lab.models", *map(build.format, names)) == ["vit", "llama", "clip"]


FORKS = """
import os, sys, traceback
exec(sys.argv[1])
for ask in sys.argv[2:]:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            exec(ask, {})
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def alone(common: str, *asked: str) -> list[str]:
    """The line that each of some programs prints in an interpreter that has run what is common to them, and no other:
    a copy of one process, since a fresh one would import torch each time."""
    return python(FORKS, common, *asked).splitlines()


@pytest.fixture(scope="module")
def told() -> dict[str, list[str]]:
    """What programs that have imported nothing but lfmlib say."""
    asked = {
        "read": "import sys, lfmlib; lfmlib.open_checkpoint('minilm').tensors; print(*sys.modules)",
        "surveyed": (
            "import sys, lfmlib; lfmlib.survey('minilm', select='layer.0.*query', progress=False); print(*sys.modules)"
        ),
        "public": (
            "import lfmlib; from lfmlib import *; assert set(lfmlib.__all__) <= set(dir(lfmlib)) & set(globals())\n"
            "print(lfmlib.surveys.__name__, lfmlib.checkpoints.__name__, lfmlib.survey.__module__, "
            "lfmlib.pruning.__name__)"
        ),
    }
    return dict(zip(asked, map(str.split, alone("import lfmlib", *asked.values())), strict=True))


@pytest.mark.slow
def test_reading_a_checkpoint_imports_nothing_heavy(told):
    assert "lfmlib" in told["read"] and {name.split(".")[0] for name in told["read"]}.isdisjoint(HEAVY)


def test_a_survey_imports_no_training_and_no_scipy_stats(told):
    unwanted = {"scipy.stats", "transformers", "peft", "huggingface_hub", "sklearn", "matplotlib"}
    assert "lfmlib" in told["surveyed"] and unwanted.isdisjoint(told["surveyed"])


def test_every_public_name_is_found_and_listed(told):
    expected = ["lfmlib.surveys", "lfmlib.checkpoints", "lfmlib.surveys.values", "lfmlib.losses.pruning"]
    assert told["public"] == expected


COST = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)"""


@pytest.mark.slow
def test_importing_costs_hardly_more_than_torch():
    """Their smallest costs are compared, after as many runs as it takes: a busy machine only ever adds to a cost."""
    asked = ("import torch", "import lfmlib", "import lfmlib; lfmlib.open_checkpoint('minilm').tensors")
    runs, ratios = [], {"anything": 9.0}
    while len(runs) < 8 and max(ratios.values()) > 1.5:
        runs.append([python(one + COST, OMP_NUM_THREADS="1").split() for one in asked])
        torch_alone, *ours = ([min(float(run[which][place]) for run in runs) for place in (0, 1)] for which in range(3))
        ratios = {
            (code, what): found[place] / torch_alone[place]
            for code, found in zip(asked[1:], ours, strict=True)
            for place, what in enumerate(("seconds", "memory"))
        }
    assert max(ratios.values()) <= 1.5, f"times that of `import torch`: {ratios}"
