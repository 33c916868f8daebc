"""One voice: terms of claims and rules are explained, sentences short, and the paper's page has every finding."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest

from lfmlib.book import stage
from lfmlib.findings.rules import CHAPTERS, RULES, STATEMENTS, VERDICTS
from lfmlib.provenance import ROOT

BOOK = ROOT / "book"
LONGEST = 30
"""Words in a sentence, at most."""
PROSE = [BOOK / f"{Path(page).name}.md" for page in stage.toc_pages(ROOT) if re.fullmatch(r"book/(?!methods)\w+", page)]
"""Pages whose sentences are counted: not the reference, nor the methods and the notes of the scoreboard."""
SPOKEN = {
    "F1": "Gaussian|parameter|kl_bits",
    "F2": "initialization|start|correlation|Gaussian|ΔW|before training",
    "F3": "sharp|inverted T|linear|seed|step 0",
    "F4": "i.i.d.|Gaussian noise|independence|identity|spectrum|log-variance|edge|mean square|leg",
    "F5": "transformation weights|Gaussian noise|Q–Q plot|LoRA|gain|rate|held-out|loss|uniform|±1|frozen",
    "F6": "transformation weights|standard deviation|g|weight decay|recipe|Cov|interval|run|norm-matched noise",
    "F7": "depth|role|slope|interval|permutation p|corrected|random walk",
    "F8": "deviation|optimal weights|radius|gap|class frequencies|draw|base|fine-tune|head|protocol",
    "F9": "optimal weights|zero-mean|std",
    "F10": "symmetric|Kolmogorov–Smirnov|mirror image",
    "F11": "sparse|magnitude pruning|held-out|gap|guessing|paired",
    "F12": "truncated Gaussian|outlier|pruned|code|parameters charged|damage|squared norm|random set",
    "F13": "insight|adaptation|adapter|Holm|point|σ",
    "F14": "editing|merging|average|task arithmetic|TIES|DARE|DARE-TIES|NAN|amplified|random set|normalized score",
}
"""The technical terms in the claim and the rule of each finding, as they stand there."""
ELSEWHERE = ("control", "null", "census", "Marchenko–Pastur", "singular value", "noise twin", "checkpoint", "record")
"""Terms that boxes, verdicts and the scoreboard use beside them."""
EXPLAINED_UNDER = {
    "ΔW": "transformation weights",
    "before training": "step 0",
    "mean square": "squared norm",
    "rate": "learning rate",
    "frozen": "noise-built adapter",
    "Cov": "covariance",
    "corrected": "Holm",
    "deviation": "noise radius",
    "radius": "noise radius",
    "Kolmogorov–Smirnov": "Kolmogorov–Smirnov distance",
    "fine-tune": "fine-tuning",
    "std": "standard deviation",
    "σ": "standard deviation",
    "magnitude pruning": "pruning",
    "pruned": "pruning",
    "code": "code length",
    "parameters charged": "code length",
    "amplified": "amplification",
    "i.i.d.": "independent and identically distributed",
}
"""Term → the glossary's entry that explains it, where that bears another name."""

INDICES = {"i", "j", "t", "e"}
"""Letters of formulas that are not explained: those that count, and the base of the exponential."""
GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "η": "eta", "θ": "theta", "κ": "kappa"}
GREEK |= {"λ": "lambda", "μ": "mu", "ν": "nu", "ρ": "rho", "σ": "sigma", "τ": "tau", "Φ": "Phi", "ℓ": "ell"}
"""Letters outside of formulas → their names inside."""


def notation() -> list[list[str]]:
    """The rows of the notation's first table: the symbols and names of each, its meaning and its unit."""
    table = (BOOK / "notation.md").read_text(encoding="utf-8").split("\nRoles of matrices")[0]
    return [re.split(r"(?<!\\) *\| *", line)[1:-1] for line in table.splitlines() if line.startswith("| ")][1:]


def symbols(cell: str) -> list[str]:
    """The symbols, columns and words that a cell of the notation names; of an equation what stands on its left."""
    return [re.sub(r" = .*", "", one.strip("$")) for one in cell.split(", ")]


def formulas(text: str) -> list[str]:
    """What stands between dollars, outside of listings and names in code."""
    text = re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", "", text)
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$]+?)\$", text, flags=re.DOTALL)]


def letters(formula: str) -> set[str]:
    """The letters of a formula that stand for something; Greek ones by name."""
    formula = re.sub(
        r"\\(?:operatorname|mathrm|text)\{(?:\\.|[^{}\\])*\}|_\\text\w+|\\(?:begin|end)\{\w+\}", " ", formula
    )
    greek = {name for name in re.findall(r"\\([A-Za-z]+)", formula) if name in GREEK.values()}
    return greek | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+|\\.", " ", formula)))


def glossary() -> dict[str, str]:
    """Term → its explanation; several terms can share one."""
    body = re.search(r"```\{glossary\}\n(.*?)\n```", (BOOK / "glossary.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    found = {}
    for entry in re.split(r"\n\s*\n(?=\S)", body):
        terms = [line for line in entry.splitlines() if line and not line.startswith(" ")]
        found |= dict.fromkeys(terms, " ".join(line.strip() for line in entry.splitlines() if line.startswith(" ")))
    return found


def prose(text: str) -> list[str]:
    """The sentences of a page, without headings, tables, listings, equations and the addresses of links."""
    for left_out in (r"^(`{3,}).*?^\1", r"\$\$.*?\$\$", r"^ *\|.*?$", r"^#.*?$"):
        text = re.sub(left_out, "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", text)
    ends = r"(?<=[.!?])[)”*]*\s+(?=[“(*`$A-ZΔ])"
    return [one for block in blocks for one in re.split(ends, " ".join(block.split())) if one]


def words(sentence: str) -> int:
    return len(re.findall(r"[^\W_]\S*", sentence))


@pytest.mark.parametrize("id_", STATEMENTS)
def test_terms_of_claim_and_rule_are_in_the_glossary(id_):
    rule, terms = RULES[id_], SPOKEN[id_].split("|")
    said = " ".join([STATEMENTS[id_], rule.text, rule.metric, rule.control]).replace("inverted-T", "inverted T")
    unsaid = [term for term in terms if not re.search(rf"(?<!\w){re.escape(term)}", said, flags=re.IGNORECASE)]
    assert not unsaid, f"{id_} no longer speaks of {unsaid}; take them out of the list"
    missing = [term for term in terms if EXPLAINED_UNDER.get(term, term) not in glossary()]
    assert not missing, f"book/glossary.md lacks {missing} of {id_}"


def test_verdicts_and_other_terms_of_the_boxes_are_in_the_glossary():
    assert [term for term in (*VERDICTS, *ELSEWHERE) if term not in glossary()] == []


def test_glossary_explains_each_term_once_and_briefly():
    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(?![`#\s])(.+)$", text, flags=re.MULTILINE)
    assert len({term.casefold() for term in terms}) == len(terms)
    assert [term for term, meaning in glossary().items() if not 2 <= words(meaning) <= 60] == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_sentences_are_short(path):
    long = [f"{words(one)} words: {one}" for one in prose(path.read_text(encoding="utf-8")) if words(one) > LONGEST]
    assert not long, "\n".join(long)


def test_sentences_are_told_apart():
    page = (
        "# A title\n\nOne is. [Two](a.md#b) words (in all). “Three” here.\n\n- four\n- five\n\n| a. B |\n\n$$x. Y$$\n"
    )
    assert prose(page) == ["One is.", "Two words (in all).", "“Three” here.", "- four", "- five"]


def test_the_papers_page_has_every_finding_and_its_chapter():
    text = (BOOK / "paper.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (F\d+): (.+)$", text, flags=re.MULTILINE) == list(STATEMENTS.items())
    parts = dict(zip(STATEMENTS, re.split(r"^## F\d+: ", text, flags=re.MULTILINE)[1:], strict=True))
    for id_, part in parts.items():
        labels = re.findall(r"^- \*\*(\w+)\.\*\*", part, flags=re.MULTILINE)
        assert labels == ["Theirs", "Ours", "Difference", "Reason"], id_
        assert f"../notebooks/{CHAPTERS[id_]}.ipynb" in part, id_
    assert len(text.split()) <= 1800


def test_the_notation_names_each_symbol_once():
    rows = notation()
    assert len(rows) > 50 and {len(row) for row in rows} == {3}
    named = [one for row in rows for one in symbols(row[0])]
    assert sorted(named) == sorted(set(named))
    assert {"W_0", "\\Delta W", "gg_shape", "edge"} <= {one.strip("`") for one in named}
    meant = [row[1] for row in rows]
    assert len(set(meant)) == len(meant)


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted((BOOK / "methods").glob("*.md")), *BOOK.glob("*.md")],
    ids=lambda path: path.stem,
)
def test_letters_of_formulas_are_in_the_notation(path):
    known = set().union(*(letters(one) for row in notation() for one in formulas(row[0]))) | INDICES
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    strange = {one: sorted(letters(one) - known) for one in formulas(text) if letters(one) - known}
    assert not strange, f"book/notation.md lacks {strange}"


@pytest.mark.parametrize("package", ["chapters", "plots", "findings"])
def test_greek_letters_of_sentences_and_labels_are_in_the_notation(package):
    known = set().union(*(letters(one) for row in notation() for one in formulas(row[0]))) | {"Sigma"}
    for path in sorted((ROOT / "lfmlib" / package).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        said = "".join(
            one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)
        )
        strange = {one for one in re.findall(r"[α-ωΑ-ΩϐϑϕℓΛ]", said) if GREEK.get(one, "?") not in known} - {
            "Δ",
            "Σ",
            "χ",
        }
        assert not strange, f"{path}: {strange}"


def test_letters_are_told_from_words_and_commands():
    assert letters(r"\operatorname{Var} W = a_\lambda^2 + \mathrm{kl\_bits} + L_\text{prior} \sqrt{c}") == {
        "W", "a", "lambda", "L", "c"
    }  # fmt: skip
    assert formulas("Of $a$ and `$b$`: $$c\nd$$") == ["a", "c\nd"]
    assert symbols(r"$\Delta W = W - W_0$") == [r"\Delta W"] and symbols("$a$, `b`, edge") == ["a", "`b`", "edge"]
