"""Words that come from elsewhere (names in a checkpoint, its config.json, paths, parameters) in sentences and pages.

Sentences are written in a little Markdown: `code`, **strong**, *emphasis*, lists. `plain` and `code` put a word into
one so that it reads as it is; `to_html` shows one, and knows nothing but that, so that no word is ever a tag, a link,
an image or an equation, in JupyterLab, in the book and in a report alike.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_MARKUP = re.compile(r"""[\\`*{}\[\]<>&|$~!@:"'#^]|(?<![^\W_])_|_(?![^\W_])""")
_WIDER = re.compile(r"[<&|$~{@]|(?<=\])[(\[]")  # markup of a page that sentences do not know
_TOKENS = re.compile(r"\\([!-/:-@\[-`{-~])|(?<!`)(`+)(?!`)(.+?)(?<!`)\2(?!`)|(\*\*?)|`+|[^\\*`]+|\\", re.DOTALL)
_TAGS = {"*": "em", "**": "strong"}
_UNTYPESET = ' class="lfm-say mathjax_ignore"'  # no dollar in a sentence begins an equation


def printable(text: object) -> str:
    r"""A word on one line, each character of it seen: what has no ink, or turns the direction, as its code. Spaces that
    do not break, which numbers hold, stay.

    Examples:
        >>> from lfmlib.findings.markup import printable
        >>> printable("a\nb\u202ec")
        'a\\nb\\u202ec'
    """
    return "".join(c if c.isprintable() or c == "\u00a0" else c.encode("unicode_escape").decode() for c in str(text))


def plain(text: object) -> str:
    r"""A word for a sentence, none of it markup.

    Examples:
        >>> from lfmlib.findings.markup import plain
        >>> plain("a*b* <c>")
        'a\\*b\\* \\<c\\>'
    """
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def code(text: object) -> str:
    """A word for a sentence, as code; within more backticks than it holds in a row.

    Examples:
        >>> from lfmlib.findings.markup import code
        >>> code("layers.0.q"), code("a`b")
        ('`layers.0.q`', '``a`b``')
    """
    word = printable(text)
    if not word.strip():
        return f"“{word}”"  # no code is empty
    fence = "`" * (1 + max(map(len, re.findall("`+", word)), default=0))
    gap = " " if {word[0], word[-1]} & {"`", " "} else ""
    return f"{fence}{gap}{word}{gap}{fence}"


def enumerated(words: Iterable[str]) -> str:
    """Words as a list in a sentence.

    Examples:
        >>> from lfmlib.findings.markup import enumerated
        >>> enumerated(["LoRA", "DoRA", "VeRA"]), enumerated([])
        ('LoRA, DoRA and VeRA', '')
    """
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def ends(*words: str) -> str:
    """The ends of a range in a sentence, once where they read the same.

    Examples:
        >>> from lfmlib.findings.markup import ends
        >>> ends("0.1", "0.4"), ends("1 %", "1 %")
        ('0.1 to 0.4', '1 %')
    """
    return " to ".join(dict.fromkeys(words))


def escaped(text: object) -> str:
    """A word for HTML, in text or in a quoted attribute.

    Examples:
        >>> from lfmlib.findings.markup import escaped
        >>> escaped("<b>")
        '&lt;b&gt;'
    """
    return html.escape(printable(text))


def inline(sentence: str) -> str:
    r"""A sentence as HTML, without a paragraph around it.

    Examples:
        >>> from lfmlib.findings.markup import inline
        >>> inline("**2** of `a<b>`")
        '<strong>2</strong> of <code>a&lt;b&gt;</code>'
    """
    parts: list[str] = []
    begun: dict[str, int] = {}  # mark that may open an emphasis → its place in the parts
    for found in _TOKENS.finditer(sentence):
        literal, fence, inside, mark = found.groups()
        if fence:
            spaced = inside[0] == inside[-1] == " " and inside.strip()
            parts.append(f"<code>{html.escape(inside[1:-1] if spaced else inside)}</code>")
        elif mark in begun and not sentence[found.start() - 1].isspace():
            place = begun.pop(mark)
            begun = {other: at for other, at in begun.items() if at < place}
            parts[place] = f"<{_TAGS[mark]}>"
            parts.append(f"</{_TAGS[mark]}>")
        else:
            if mark and not sentence[found.end() : found.end() + 1].isspace():
                begun[mark] = len(parts)
            parts.append(html.escape(literal or found[0]))
    return "".join(parts)


def cell(sentence: str) -> str:
    r"""A sentence for a table of a page, whose Markdown knows more than sentences do: of it, only theirs stays markup.

    Examples:
        >>> from lfmlib.findings.markup import cell
        >>> cell("**1** of `a|b` <c>")
        '**1** of `a\\|b` \\<c>'
    """

    def safe(found: re.Match) -> str:
        literal, fence, _, mark = found.groups()
        if literal or mark:
            return found[0]
        return found[0].replace("|", r"\|") if fence else _WIDER.sub(r"\\\g<0>", found[0])

    return _TOKENS.sub(safe, sentence)


def to_html(text: str) -> str:
    """Sentences as HTML: paragraphs, with an empty line between, and lists, each item a line that begins with a dash.

    Examples:
        >>> from lfmlib.findings.markup import to_html
        >>> to_html("- *a*\\n- b")
        '<ul class="lfm-say mathjax_ignore"><li><em>a</em></li><li>b</li></ul>'
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("- "):
            items = "".join(f"<li>{inline(item)}</li>" for item in re.split(r"\n- ", block[2:]))
            blocks.append(f"<ul{_UNTYPESET}>{items}</ul>")
        else:
            blocks.append(f"<p{_UNTYPESET}>{inline(block)}</p>")
    return "".join(blocks)
