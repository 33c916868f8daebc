"""The files that describe the project agree with each other."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lfmlib.book import model_report, stage
from lfmlib.extras import EXTRAS
from lfmlib.provenance import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "lfmlib").rglob("*.py"))
OF_THE_BUILD = (
    "PIL",
    "docutils",
    "matplotlib_inline",
    "npm_weibull",
    "sphinx",
)  # brought by others, or for single pages
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def pins() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    found = {}
    for line in filter(None, lines):
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][^+\s;]*)", line)
        assert match, f"constraints.txt: {line!r} is no plain pin (name==version, no +build)"
        found[canonicalize_name(match[1])] = match[2]
    return found


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]]
    return [one for one in found if one.name != PROJECT["name"]]  # an extra may bring another


def brought(extra: str | None) -> set[str]:
    """Names of the packages that an installation with this extra has."""
    texts = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else ())]
    found = [Requirement(text) for text in texts]
    names = {canonicalize_name(one.name) for one in found}
    return names.union(*(brought(more) for one in found if one.name == PROJECT["name"] for more in one.extras))


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_inside_its_range(requirement):
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin, f"constraints.txt has no pin for {requirement.name}"
    assert requirement.specifier, f"pyproject.toml gives {requirement.name} no range"
    assert requirement.specifier.contains(pin, prereleases=True), f"{requirement} does not allow the pinned {pin}"


@functools.cache
def installed() -> dict[str, list[str]]:
    """Names that can be imported here, each with the packages that bring it."""
    return dict(packages_distributions())


EXTRA = {"lab": "lab", "experiments": "lab", "plots": "book", "chapters": "book", "book": "book"}
EXTRA |= {"deltas": "adapters", "merging": "adapters", "noise_adapter": "adapters", "checkpoints": "formats"}
OF_EXTRA = {"formats": ("gguf", "onnx"), "book": ("book", "lab")}
"""What parts of the library may need beyond a plain installation: extras, or several of them under one name."""


@pytest.mark.parametrize("part", sorted({path.relative_to(ROOT).parts[1] for path in SOURCES}))
def test_every_package_that_the_library_imports_is_required(part):
    extra = EXTRA.get(part.removesuffix(".py"))
    extras = OF_EXTRA.get(extra, (extra,))
    found, base, required = installed(), brought(None), set().union(*map(brought, extras))
    for path in SOURCES:
        if path.relative_to(ROOT).parts[1] != part:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"lfmlib"}:
                packages = {canonicalize_name(one) for one in found.get(name, [name])}
                where = f"{path.relative_to(ROOT)} imports {name}"
                assert packages & required, f"{where}: pyproject.toml does not name it"
                known = {*OF_THE_BUILD}.union(*(EXTRAS[one] for one in extras if one))
                assert packages & base or (extra and name in known), f"{where}: `EXTRAS` does not name it"


def test_environment_installs_the_project_under_the_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    assert packages == {"pip": ["--constraint constraints.txt", "--editable .[book,dev]"]}
    assert python.removeprefix("python").strip().startswith(PROJECT["requires-python"])


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == PROJECT["version"]


def test_the_wheel_holds_every_package_and_what_a_report_needs():
    settings = SETTINGS["tool"]["setuptools"]
    found = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "lfmlib").rglob("__init__.py")}
    assert set(settings["packages"]) - set(settings["package-dir"]) == {one.replace("/", ".") for one in found}
    data = settings["package-data"]
    missing = [
        f"{place}/{name}" for package, place in settings["package-dir"].items() for name in data[package]
        if not (ROOT / place / name).is_file()
    ]  # fmt: skip
    assert not missing and model_report.chapter().name in data["lfmlib.notebooks"]


def test_chapters_are_read_in_the_order_of_their_names():
    listed = [path.name for path in stage.toc_chapters(ROOT)]
    assert listed == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert all(re.match(r"\d\d_[a-z]", name) for name in listed)
    prefixes = [name[:2] for name in listed]
    assert len(set(prefixes)) == len(prefixes)


def test_figures_have_names_of_their_own_in_the_whole_book():
    names = [
        cell["metadata"]["mystnb"]["figure"]["name"]
        for path in stage.toc_chapters(ROOT)
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if "figure" in cell["metadata"].get("mystnb", {})
    ]
    assert sorted(set(names)) == sorted(names)


def test_pages_are_there():
    pages = [ROOT / f"{page}.md" for page in stage.toc_pages(ROOT) if page.startswith("book/")]
    assert [page.name for page in pages if not page.exists()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_the_readers_commands(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, flags=re.MULTILINE))
    assert all(re.fullmatch(r"make [a-z-]+", command) and command.split()[1] in targets for command in commands)
    assert commands or path.stem == "publish"


def test_actions_are_named_by_commit_with_the_release_and_dependabot_keeps_both():
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    used = re.findall(r"uses: (.+)", text)
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in used)
    assert len({one.partition("@")[0] for one in used}) == len(set(used))  # one commit of each
    settings = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))
    assert [(one["package-ecosystem"], one["directory"]) for one in settings["updates"]] == [("github-actions", "/")]


def test_workflows_and_readme_use_the_same_commands():
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make book", "make test-all"):
        assert command in text
    for command in ("make book", "make test", "make test-all"):
        assert re.search(rf"{command}(?!-)\b", readme), f"README.md does not name `{command}`"
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("make test-all")


def test_precommit_has_the_pinned_versions_and_the_makefiles_flags():
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {repo["repo"].split("/")[-1]: repo for repo in settings["repos"]}
    assert hooks["ruff-pre-commit"]["rev"] == "v" + pins()["ruff"]
    assert hooks["nbstripout"]["rev"] == pins()["nbstripout"]
    *flags, keys = hooks["nbstripout"]["hooks"][0]["args"]
    assert f'STRIP := {" ".join(flags)} "{keys}"' in MAKEFILE


def test_make_lists_its_targets():
    listed = subprocess.run(["make", "-C", ROOT], capture_output=True, check=True, encoding="utf-8").stdout
    assert all(f"make {target}" in listed for target in ("book", "test", "test-all", "lint", "clean", "bench"))
