"""Sphinx extension behind the reference: docstrings become entries, and names in prose become links to them.

Docstrings are written as Google has them: `Args:`, `Attributes:`, `Returns:`, `Raises:` and `Examples:` after plain
paragraphs. Signatures stay short, and so readable on a phone, because types stand beside the arguments they belong to.

A name in backticks, in a docstring, on a page or in a chapter, leads to its entry where there is one: what it means is
looked up as Python would, in the class and module of the docstring, then in `lfmlib`. All others stay plain code, and
so does what a chapter's cells print.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from functools import reduce
from types import ModuleType, SimpleNamespace

from docutils import nodes
from sphinx import addnodes
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

import lfmlib

__all__ = ["entries", "sections", "setup"]

TITLES = {"Args": "Parameters", "Attributes": "Attributes", "Returns": "Returns", "Raises": "Raises", "Examples": ""}
"""Heading in a docstring → what the page calls it."""
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_HEAD = re.compile(rf"({'|'.join(TITLES)}):\s*")
_ENTRY = re.compile(r"(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*):\s+(.*)")


def setup(app) -> dict:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _dress)
    app.connect("autodoc-process-signature", _undress)
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# --- docstrings -----------------------------------------------------------------------------------------------------


def sections(docstring: str) -> dict[str, list[str]]:
    """The lines of a docstring by heading, without their indentation; those before any heading under ""."""
    found: dict[str, list[str]] = {"": []}
    here = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if match := _HEAD.fullmatch(line):
            here = match[1]
            found[here] = []
        elif here and line[:1].strip():  # an unindented paragraph ends a section
            here = ""
            found[here] += ["", line]
        else:
            found[here].append(line)
    return {head: inspect.cleandoc("\n" + "\n".join(lines)).splitlines() for head, lines in found.items()}


def entries(lines: list[str]) -> list[tuple[list[str], str]]:
    """What a section says of each name: (names, text), for “x, y: text”, on as many lines as it takes."""
    found: list[tuple[list[str], str]] = []
    for line in lines:
        if (match := _ENTRY.match(line)) and not line[0].isspace():
            found.append((match[1].split(", "), match[2]))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}".rstrip())
    return found


def _dress(app, what, name, found, options, lines) -> None:
    """A docstring as reStructuredText."""
    if what == "data" and "\n".join(lines).strip() == inspect.cleandoc(type(found).__doc__ or "").strip():
        lines.clear()  # a constant without a docstring has its type's, which says nothing of it
    parts = sections("\n".join(lines))
    types = _types(found)
    text = [*_listings(parts.pop("")), ""]
    if what in ("function", "method") and "Returns" not in parts and types.get("return", "None") != "None":
        parts = {**{head: parts[head] for head in parts if head == "Args"}, "Returns": [], **parts}
    for head, body in parts.items():
        named = entries(body)
        if head == "Examples":
            text += [".. rubric:: Examples", "", *body, ""]
        elif head == "Returns" and not (named and all(one.islower() for names, _ in named for one in names)):
            kind = types.get("return", "")
            kind = f"``{kind}``" if kind else ""
            text += [f":Returns: {kind}{' – ' if kind and body else ''}{' '.join(body)}", ""]
        else:
            text += [f":{TITLES[head]}:", *(f"    {line}" for line in _listed(named, head, types)), ""]
    lines[:] = text


def _listed(named: list[tuple[list[str], str]], head: str, types: dict[str, str]) -> Iterator[str]:
    """A definition list: names, with their type where they share one, and what is said of them."""
    for names, text in named:
        shown = ", ".join(f"``{name}``" if head == "Raises" else f"**{name}**".replace("_", r"\_") for name in names)
        kinds = {types.get(name, "") for name in names} if head != "Returns" else {""}
        yield shown + (f" : ``{kind}``" if len(kinds) == 1 and (kind := kinds.pop()) else "")
        yield f"    {text}"


def _listings(lines: list[str]) -> list[str]:
    """Indented lines between paragraphs are tables or equations made with spaces: shown as they are."""
    text: list[str] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("    ") and not before.strip() and not (text and text[-1].startswith("    ")):
            inside = next((one for one in reversed(text) if one.strip()), "").startswith("    ")
            text += [] if inside else ["::", ""]
        text.append(line)
    return text


def _types(found: object) -> dict[str, str]:
    """Arguments, or fields of a class, and the result (“return”) → type in words."""
    known = {}
    for one in reversed(inspect.getmro(found)) if inspect.isclass(found) else [inspect.unwrap(found)]:
        if one.__class__.__module__ != "builtins" or inspect.isfunction(one) or inspect.isclass(one):
            known |= getattr(one, "__annotations__", {})
    words = {
        name: kind if isinstance(kind, str) else stringify_annotation(kind, "smart") for name, kind in known.items()
    }
    return {name: re.sub(r"~[\w.]*\.", "", kind) for name, kind in words.items()}


def _undress(app, what, name, found, options, signature, returns):
    """Results are made by functions, and need no signature; a class that says what to give it keeps its own."""
    if what == "class" and "Args" not in sections(found.__doc__ or "") and not hasattr(found, "peft_type"):
        return "", None
    return None


# --- links ----------------------------------------------------------------------------------------------------------


def _link(app, doctree: nodes.document, docname: str) -> None:
    """Make links of the first mention of a name on a page, and in every entry."""
    known = app.env.get_domain("py").objects
    names = {id(found): name for name in known if (found := _resolved(name)) is not None and _has_a_place(found)}
    seen, module = set(), None
    for literal in list(doctree.findall(nodes.Element)):
        if isinstance(literal, nodes.title) or any(one.startswith("module-") for one in literal["ids"]):
            module = _module(literal)
        if not isinstance(literal, nodes.literal):
            continue
        text = literal.astext().removesuffix("()")
        if not NAME.fullmatch(text) or _is_apart(literal):
            continue
        entry = _entry(literal) or module
        name = _meant(text, entry, known, names)
        own = entry is not None and name == f"{entry['module']}.{entry['fullname']}"
        if name is None or own or (id(entry), name) in seen:
            continue
        seen.add((id(entry), name))
        at = known[name]
        literal.replace_self(make_refnode(app.builder, docname, at.docname, at.node_id, literal.deepcopy(), name))


def _is_apart(literal: nodes.Node) -> bool:
    """Whether it stands in a heading, a signature, another link, or in what a cell printed."""
    above, apart = literal.parent, (nodes.title, nodes.reference, addnodes.desc_signature, addnodes.pending_xref)
    while above is not None:
        if isinstance(above, apart) or "cell_output" in getattr(above, "attributes", {}).get("classes", ()):
            return True
        above = above.parent
    return False


def _entry(literal: nodes.Node) -> nodes.Element | None:
    """The signature of the entry that a name stands in."""
    above = literal.parent
    while above is not None and not isinstance(above, addnodes.desc):
        above = above.parent
    return above[0] if above is not None and "fullname" in above[0] else None


def _module(begins: nodes.Element) -> nodes.Element | None:
    """A signature to stand for the module whose docstring begins here, if one does."""
    names = [one.removeprefix("module-") for one in begins["ids"] if one.startswith("module-")]
    return addnodes.desc_signature("", "", module=names[0], fullname="", **{"class": ""}) if names else None


def _meant(text: str, entry: nodes.Element | None, known: dict, names: dict[int, str]) -> str | None:
    """The documented name that a name in prose stands for."""
    spaces = [SimpleNamespace(lfmlib=lfmlib)]
    if entry is not None:
        if text in {one.astext().partition("=")[0] for one in entry.findall(addnodes.desc_parameter)}:
            return None  # an argument of that name is meant
        inside = f"{entry['module']}.{entry['class'] or entry['fullname']}.{text}"
        own = _resolved(f"{entry['module']}.{entry['fullname']}")
        home = sys.modules.get(getattr(getattr(own, "fget", own), "__module__", ""), sys.modules.get(entry["module"]))
        for name in (inside, f"{getattr(home, '__name__', '')}.{text}"):
            if name in known:
                return name
        spaces = [home, *spaces]
    if text in known:
        return text
    # One word on a page is a function or class of the library's face; columns of tables have names of modules.
    if "." in text or entry is not None or inspect.isroutine(getattr(lfmlib, text, None)) or _is_class(text):
        spaces.append(lfmlib)
    parts = text.split(".")
    for space in spaces:
        for k in range(len(parts), 0, -1):
            found = reduce(lambda at, part: getattr(at, part, None), parts[:k], space)
            name = ".".join([names.get(id(found), ""), *parts[k:]])
            if name in known and (found is not lfmlib or k == len(parts)):
                return name
    return None


def _is_class(text: str) -> bool:
    return text in lfmlib.__all__ and inspect.isclass(getattr(lfmlib, text))


def _resolved(name: str) -> object | None:
    """The object of a dotted name below `lfmlib`."""
    first, *rest = name.split(".")
    return reduce(lambda at, part: getattr(at, part, None), rest, lfmlib) if first == "lfmlib" else None


def _has_a_place(found: object) -> bool:
    """Whether it is known again when met under another name, as numbers and strings are not."""
    return isinstance(found, ModuleType) or inspect.isclass(found) or inspect.isroutine(found)
