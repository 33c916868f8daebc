"""Chapters to run without installing anything: copies whose first cell brings the book and its pinned packages.

Binder builds what `binder/environment.yml` lists and opens the chapters as they are stored. Colab installs nothing and
opens notebooks of a repository only, so the copies go to a branch of their own, `BRANCH`, and its links lead there:
``python -m lfmlib.book.launch``, which is ``make launch``. Each copy brings the commit that it was made from.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template

import nbformat
import yaml

from ..provenance import ROOT
from .stage import repository, toc_chapters

__all__ = ["BRANCH", "PACKAGES", "copies", "install", "main", "push", "setup"]

BRANCH = "launch"
"""The branch that holds the copies: one commit without a past, made anew each time."""
PACKAGES = ("beautifulsoup4", "matplotlib", "nbconvert", "nbformat", "papermill", "pyyaml", "seaborn")
"""What chapters need beside the extra ``lab`` and a notebook's kernel, which is left as it is found."""

_CELL = Template("""\
# Bring the book, at the commit of this page, and the packages it was tested with: minutes, once.
# What is installed here already stays, torch above all; where there is none, its CPU build comes.
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path


def run(*words):
    subprocess.run(words, check=True)


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


if not Path("constraints.txt").exists():  # else this cell has run before
    run("git", "clone", "--quiet", "$url", "gaussian-never-fades")
    os.chdir("gaussian-never-fades")
    run("git", "checkout", "--quiet", "$commit")
here = {plain(one.name) for one in distributions()}
pins = Path("constraints.txt").read_text().splitlines()
Path("_build").mkdir(exist_ok=True)
Path("_build/pins.txt").write_text("\\n".join(p for p in pins if plain(p.split("==")[0]) not in here))
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", "_build/pins.txt"]
if "torch" not in here:  # alone, so that only it is looked for in an index of its own
    index = "https://download.pytorch.org/whl/cpu"
    run(*pip, "--no-deps", "--extra-index-url", index, "torch")
packages = "$packages"
run(*pip, "--editable", ".[lab]", *packages.split())
sys.path.insert(0, os.getcwd())""")


def install(url: str, commit: str) -> str:
    """The code of the first cell: it clones `url` into the folder it runs in, checks `commit` out and installs it."""
    return _CELL.substitute(url=url, commit=commit, packages=" ".join(PACKAGES))


def copies(root: Path, folder: Path, *, url: str, commit: str) -> list[Path]:
    """Write the chapters into `folder`, below the path they have in the repository, with the cell that installs."""
    made = []
    for chapter in toc_chapters(root):
        notebook = nbformat.read(chapter, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(install(url, commit), id="lfm-install"))
        made.append(folder / chapter.relative_to(root))
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, made[-1])
    return made


def push(root: Path, folder: Path, *, remote: str = "origin") -> str:
    """Make of `folder` the one commit of `BRANCH`, and push it; index and work tree of `root` stay as they are."""
    with tempfile.TemporaryDirectory() as apart:
        environment = os.environ | {"GIT_INDEX_FILE": str(Path(apart) / "index")}
        tree = ["--git-dir", _git(root, "rev-parse", "--absolute-git-dir"), "--work-tree", str(folder)]
        _git(folder, *tree, "add", "--force", "--all", ".", environment=environment)
        written = _git(root, "write-tree", environment=environment)
    who = ("-c", "user.name=lfmlib.book.launch", "-c", "user.email=lfmlib@localhost")
    message = f"Chapters that install what they need, made from {_git(root, 'rev-parse', 'HEAD')}"
    commit = _git(root, *who, "commit-tree", written, "-m", message)
    _git(root, "push", "--quiet", "--force", remote, f"{commit}:refs/heads/{BRANCH}")
    return commit


def _git(folder: Path, *words: str, environment: dict[str, str] | None = None) -> str:
    run = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    if run.returncode:
        raise ValueError(f"git {words[-1]}: {run.stderr.strip()}")
    return run.stdout.strip()


def setup(app) -> dict[str, bool]:
    """A Sphinx extension, of books whose repository is known: Colab's links lead to the copies."""
    app.connect("html-page-context", _lead, priority=900)  # after the theme, which makes the links
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _lead(app, page, template, context, doctree) -> None:
    branch = app.config.html_theme_options.get("repository_branch")
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = button["url"].replace(f"/blob/{branch}/", f"/blob/{BRANCH}/")


def main(root: Path = ROOT) -> int:
    """Push the copies of the commit that is checked out; return the exit status."""
    url = repository(yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")))["url"]
    try:
        if not url:
            raise ValueError("no address of the repository: set repository.url in _config.yml, or BOOK_REPOSITORY")
        with tempfile.TemporaryDirectory() as folder:
            copies(root, Path(folder), url=url, commit=_git(root, "rev-parse", "HEAD"))
            print(f"{url}, branch {BRANCH}: {push(root, Path(folder))}")
    except ValueError as error:
        print(f"lfmlib.book.launch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
