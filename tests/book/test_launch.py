"""Chapters that open where nothing is installed: the cell that installs, the branch of copies, links, and Binder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from packaging.utils import canonicalize_name
from toybooks import make_book

from lfmlib.book import launch
from lfmlib.extras import EXTRAS
from lfmlib.provenance import ROOT, commit

_TEXT = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)", _TEXT, flags=re.MULTILINE))
OF_KERNELS = {"IPython", "matplotlib_inline"}  # a notebook that runs at all has them
CALLED = {"bs4": "beautifulsoup4", "yaml": "pyyaml"}  # module → its package, where they differ


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A Tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, encoding="utf-8"
    ).stdout.strip()


@pytest.fixture
def book(tmp_path) -> Path:
    """A toy book in a repository with a remote one."""
    root = make_book(tmp_path / "book")
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    git(root, "init", "--quiet")
    git(root, "remote", "add", "origin", str(tmp_path / "remote.git"))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "A toy book")
    return root


def test_the_branch_holds_the_chapters_with_the_cell_and_nothing_else_changes(book, monkeypatch, capsys):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/someone/something")
    head = git(book, "rev-parse", "HEAD")
    for _ in range(2):  # it is made anew, without the one before
        assert launch.main(book) == 0
    remote = book.parent / "remote.git"
    assert "branch launch" in capsys.readouterr().out
    assert git(remote, "log", "--format=%s", launch.BRANCH) == f"Chapters that install what they need, made from {head}"
    assert git(remote, "ls-tree", "-r", "--name-only", launch.BRANCH) == "notebooks/01_is_it_so.ipynb"
    copy = nbformat.reads(git(remote, "show", f"{launch.BRANCH}:notebooks/01_is_it_so.ipynb"), as_version=4)
    nbformat.validate(copy)
    stored = nbformat.read(book / "notebooks/01_is_it_so.ipynb", as_version=4)
    assert copy.cells[1:] == stored.cells and copy.metadata == stored.metadata
    assert copy.cells[0].source == launch.install("https://github.com/someone/something", head)
    assert git(book, "status", "--porcelain") == "" and git(book, "rev-parse", "HEAD") == head


def test_without_an_address_or_a_remote_nothing_is_pushed(book, monkeypatch, capsys):
    monkeypatch.delenv("BOOK_REPOSITORY", raising=False)
    assert launch.main(book) == 2
    assert "set repository.url in _config.yml, or BOOK_REPOSITORY" in capsys.readouterr().err
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/someone/something")
    git(book, "remote", "remove", "origin")
    assert launch.main(book) == 2
    assert "origin" in capsys.readouterr().err


def test_what_is_installed_already_is_not_asked_for_in_another_version(tmp_path, monkeypatch):
    """Colab has a torch for its GPUs, and a kernel of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "constraints.txt").write_text(
        "# pins\ntorch==2.13.0\nHugging_Face.hub==1.0\nnumpy==2.4.6\n", encoding="utf-8"
    )
    there = [SimpleNamespace(name=name) for name in ("torch", "hugging-face_hub")]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: there)
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: asked.append(words))
    exec(launch.install("https://github.com/someone/something", "0" * 40), {})
    (pip,) = asked  # it stands in the tree already, so nothing is cloned
    assert pip[:4] == (sys.executable, "-m", "pip", "install") and not any("torch==" in word for word in pip)
    assert (tmp_path / "_build/pins.txt").read_text(encoding="utf-8").split() == ["#", "pins", "numpy==2.4.6"]
    assert sys.path[0] == str(tmp_path)


def test_the_cell_brings_all_that_chapters_import():
    wanted = {CALLED.get(name, name) for name in set(EXTRAS["book"]) - OF_KERNELS}
    assert set(launch.PACKAGES) == wanted
    assert wanted <= {canonicalize_name(name) for name in PINS}


@pytest.mark.slow
def test_in_an_empty_environment_the_cell_installs_what_a_chapter_needs(tmp_path):
    """A kernel and nothing else, as a notebook finds it; the repository is this one, at the commit it stands at."""
    if commit() == "unknown":
        pytest.skip("the sources are not in a git repository")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    environment = os.environ | {"PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_RETRIES": "1"}
    environment["PIP_NO_COMPILE"] = "0"  # sets what --no-compile unsets: only what is imported is compiled
    kernel = [python, "-m", "pip", "install", "--quiet", f"ipykernel=={PINS['ipykernel']}"]
    subprocess.run(kernel, check=True, env=environment)
    cell = launch.install(ROOT.as_uri(), git(ROOT, "rev-parse", "HEAD"))
    toy = """
import lfmlib, torch
from safetensors.torch import save_file
from lfmlib import records
from lfmlib.book import notebook
save_file({"a.weight": torch.randn(64, 96)}, "toy.safetensors")
table = lfmlib.survey("toy.safetensors", progress=False)
print(Path(lfmlib.__file__).parent, len(table), table["kl_bits"].iloc[0] < 0.1, len(records.load("census")) > 0)
print(torch.__version__, torch.version.cuda, *(version(name) for name in ("numpy", "transformers", "papermill")))"""
    code = f"{cell}\nfrom importlib.metadata import version\n{toy}"
    for folder in (tmp_path, tmp_path / "gaussian-never-fades"):  # the second time it is there
        run = subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True, encoding="utf-8")
        assert run.returncode == 0, run.stderr
        (where, *said), (torch, cuda, *versions) = (line.split() for line in run.stdout.splitlines()[-2:])
        assert (where, *said) == (str(tmp_path / "gaussian-never-fades/lfmlib"), "1", "True", "True")
        assert torch.partition("+")[0] == PINS["torch"] and cuda == "None"
        assert versions == [PINS[name] for name in ("numpy", "transformers", "papermill")]
    tree = tmp_path / "gaussian-never-fades"
    assert git(tree, "status", "--porcelain", "--untracked-files=no") == ""
    shutil.rmtree(tmp_path / "env")  # more than a gigabyte


def test_binder_installs_the_book_under_the_pins_with_the_cpu_build():
    """As `environment.yml` does, with paths from its folder, where conda and mamba run pip."""
    binder, own = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        for name in ("binder/environment.yml", "environment.yml")
    )
    assert binder["channels"] == own["channels"]
    python, pip, packages = binder["dependencies"]
    assert pip == "pip" and python == "python=3.11"  # repo2docker reads two numbers behind one sign
    workflow = (ROOT / ".github/workflows/book.yml").read_text(encoding="utf-8")
    assert f'python-version: "{python.partition("=")[2]}"' in workflow
    index, constraint, project = packages["pip"]
    assert index == f"--extra-index-url {re.search(r'PIP_EXTRA_INDEX_URL: (.+?) ', workflow)[1]}"
    assert index.split()[1] in launch.install("", "")
    theirs = next(one["pip"] for one in own["dependencies"] if isinstance(one, dict))
    assert constraint == theirs[0].replace("constraints", "../constraints")
    assert project == theirs[1].replace(".[book,dev]", "..[book]")
    assert (ROOT / "binder" / constraint.split()[1]).resolve() == ROOT / "constraints.txt"
    assert "torch" in PINS and "+" not in PINS["torch"]  # the index decides which build it is
