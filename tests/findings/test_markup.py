"""Words that come from elsewhere read as they are, and are never markup."""

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lfmlib.findings import Finding, front, load, markup, scoreboard, write

NAMES = st.text(st.sampled_from("ab `*_\\<>&|$[](){}!-\n\u202e\ud800"), min_size=1, max_size=12)
SENTENCES = MarkdownIt("zero").enable(["backticks", "emphasis", "escape"])


def read(page: str) -> str:
    """What a reader sees of HTML in one line."""
    return html.unescape(re.sub("<[^>]+>", "", page))


@given(NAMES.filter(str.strip))
@example("a`<img src=x onerror=alert(1)>`b")
@example("<script>alert(1)</script>")
@example("`")
@example("$<img src=a onerror=alert(1)>%$")  # as in markdown-it-katex#26
@example("$ python -i code.py\n>>> a()\n$ b()")  # as in jupyterlab#10861
@example("layers<0")  # as in jupyterlab#63: what comes after it stays
def test_a_name_in_a_sentence_reads_as_it_is(name):
    for put in (markup.plain, markup.code):
        sentence = f"The {put(name)}, **{put('q')}** and *k*: 2 * 3 ** 4."
        shown = markup.inline(sentence)
        assert read(shown) == f"The {markup.printable(name)}, q and k: 2 * 3 ** 4."
        assert shown == SENTENCES.renderInline(sentence)


@given(st.text("ab `*\\<>&$[]()!\n-", max_size=20))
def test_a_sentence_knows_no_tag_link_or_image(sentence):
    tags = set(re.findall("<[^>]*>", markup.to_html(sentence)))
    assert {re.sub(r"^</?(\w+).*", r"\1", tag) for tag in tags} <= {"p", "ul", "li", "code", "strong", "em"}


def test_lists_and_paragraphs():
    shown = markup.to_html("Beside *them*:\n\n- **a** 1\n- b\n\nEnd.")
    assert re.sub(' class="[^"]*"', "", shown) == (
        "<p>Beside <em>them</em>:</p><ul><li><strong>a</strong> 1</li><li>b</li></ul><p>End.</p>"
    )


@pytest.mark.parametrize("model", ["<script>alert(1)</script>", "a|b", "`x`", "[x](javascript:alert(1))", "{raw}`x`"])
def test_the_scoreboard_page_holds_names_as_words(model):
    reason = "`lfmlib.pruning.curve` measures <b>it</b> | $x$."
    judged, open_ = Finding.of("F1", model, {}, {}, value=0.9), Finding.of("F11", model, {}, {"reason": reason})
    other = Finding.of("F1", "other", {}, {}, value=0.1)
    for text in (scoreboard.table([judged, open_]), front.summary([judged, other])):
        page = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)  # what is left as HTML is a word
        assert model in read(page).replace("&lt;", "<")
        assert "<script" not in page and "javascript:" not in " ".join(re.findall("<[^>]*>", page))
    page = MarkdownIt("commonmark").enable("table").render(scoreboard.table([judged, open_]))
    cells = re.findall("<td>(.*?)</td>", page)
    assert len(cells) == 10  # no bar in a word begins a column
    assert cells[7] == "<code>lfmlib.pruning.curve</code> measures &lt;b&gt;it&lt;/b&gt; | $x$."


@pytest.mark.parametrize("model", ["x" * 300, "../../<img>", "caf\udce9", "a\nb"])
def test_any_name_has_a_file(model, tmp_path):
    path = write(Finding.of("F1", model, {"source": f"/models/{model}"}, {}, value=0.9), tmp_path)
    assert path.parent == tmp_path and re.fullmatch(r"F1-[A-Za-z0-9._-]{1,89}\.json", path.name)
    assert [one.model for one in load(tmp_path)] == [model]
