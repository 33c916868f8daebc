"""What a reader loads is small, and looks as it was drawn."""

from __future__ import annotations

import io
import re

import matplotlib.pyplot as plt
import numpy as np
from browser import opened
from PIL import Image

from lfmlib.book import one_file, slim


def drawn() -> str:
    """A figure of all that chapters draw: markers of two kinds and styles, lines, areas, an image, formulae, a clip."""
    rng = np.random.default_rng(0)
    fig, (left, right) = plt.subplots(1, 2, figsize=(6, 3))
    left.scatter(*rng.normal(size=(2, 900)), s=6, alpha=0.5, label="don't & <never>")
    left.plot(*rng.normal(size=(2, 300)), "+", color="C1", label=r"$\sigma^2 < 10^{-3}$")
    left.legend()
    right.imshow(rng.random((5, 5)), cmap="cividis")
    right.plot(np.linspace(0, 4, 90), 2 + np.sin(np.linspace(0, 9, 90)), "r--o")
    right.fill_between([0, 4], [1, 2], [2, 3], alpha=0.2)
    file = io.StringIO()
    fig.savefig(file, format="svg")
    plt.close(fig)
    return file.getvalue()


def test_a_drawing_shrinks_and_every_reference_is_kept():
    before = drawn()
    after = slim.drawing(before)
    assert len(after) < 0.5 * len(before)
    assert slim.drawing(after) == after
    named, used = set(re.findall(r' id="([^"]+)"', after)), set(re.findall(r'(?:href="|url\()#([^")]+)', after))
    assert named == used and len(used) == len(set(re.findall(r'(?:href="|url\()#([^")]+)', before)))
    for mark in ("<use", "<path", "<image"):
        assert after.count(mark) == before.count(mark)


def test_a_drawing_looks_the_same_also_in_the_address_of_an_image():
    before = drawn()
    after = one_file._image({"image/svg+xml": slim.drawing(before)}, "made")
    assert not re.search(r"base64,[^']{2000}", after)
    looks = []
    with opened() as browser:
        for content in (before[before.index("<svg") :], after):
            page = browser.new_page(viewport={"width": 700, "height": 400})
            page.set_content(content)
            image = Image.open(io.BytesIO(page.screenshot())).convert("L")
            looks.append(np.asarray(image, dtype=int))
    apart = np.abs(looks[0] - looks[1])
    assert looks[0].std() > 20 and apart.mean() < 0.3 and (apart > 80).mean() < 1e-4


def test_a_picture_keeps_its_look_in_few_colours(tmp_path):
    fig, ax = plt.subplots()
    ax.scatter(*np.random.default_rng(0).normal(size=(2, 400)), alpha=0.4)
    fig.savefig(tmp_path / "a.png", dpi=150, transparent=True)
    plt.close(fig)
    before = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"), dtype=int)
    size = (tmp_path / "a.png").stat().st_size
    slim._few_colours(tmp_path / "a.png")
    after = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"), dtype=int)
    assert (tmp_path / "a.png").stat().st_size < 0.5 * size
    assert np.abs(before - after).max() < 40 and np.abs(before - after).mean() < 0.5


def test_a_page_weighs_what_it_alone_loads(tmp_path):
    for name, size in (("_static/shared.js", 9000), ("_images/a.png", 300), ("page.html", 0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    text = '<script src="_static/shared.js?v=1"></script><img alt="" src="_images/a.png">'
    text += '<img src="data:,x"><img src="no.png">'
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert slim.own_weight(tmp_path / "page.html", tmp_path) == len(text) + 300
