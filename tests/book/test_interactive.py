"""Pictures that answer a reader's hand: their tables, what stands in their place, and the script in a browser.

The browser looks at a page of nothing but the outputs, the style sheets and the script; no book is built.
"""

from __future__ import annotations

import json
import math

import nbformat
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import SCREENS
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import expect

import lfmlib
from lfmlib.book import interactive, notebook, one_file
from lfmlib.findings import shown
from lfmlib.provenance import ROOT
from lfmlib.surveys.counted import law_sketch, noise_like

SHAPE = (96, 256)
HOSTILE = "a'\"<img src=x>$b$\u202e&amp;"
CURVES = {
    "one": {"noise": [(1e-4, 1.0), (0.01, 0.9), (1.0, 0.1)], "zeros": [(1e-4, 1.0), (0.01, 0.8), (1.0, 0.0)]},
    "two": {"noise": [(1e-4, 1.0), (0.01, 0.5), (1.0, 0.2)], "zeros": [(1e-4, 1.0), (0.01, 0.4), (1.0, 0.0)]},
}


@pytest.fixture(scope="module")
def model():
    """Five matrices of known laws, their survey, and the one with a name that is markup."""
    rng = np.random.default_rng(0)
    made = {
        "noise": rng.standard_normal((256, 256)),
        "laplace": rng.laplace(size=(256, 512)),
        "logistic": rng.logistic(size=(512, 256)),
        "student": rng.standard_t(5, (256, 256)),
        HOSTILE: rng.uniform(-1, 1, (256, 256)),
    }
    checkpoint = lfmlib.open_checkpoint({name: values.astype(np.float32) for name, values in made.items()})
    return checkpoint, shown(lfmlib.survey(checkpoint, progress=False))


@pytest.fixture(scope="module")
def outputs(model):
    """What the three pictures display, by kind."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactive, "display", lambda data, raw: kept.append(data))
        notebook.histograms(*model, seed=3)
        notebook.edge(SHAPE, seed=3)
        notebook.explore(CURVES, "{x} of {first} replaced by {second}: {y} is left.", "On the web, lines answer here.")
    return dict(zip(("histograms", "edge", "explore"), kept, strict=True))


def place(output: dict):
    """The one element of an output."""
    (found,) = BeautifulSoup(output["text/html"], "html.parser").find_all(recursive=False)
    return found


def table(output: dict) -> dict:
    return json.loads(place(output)["data-table"])


def test_histograms_in_the_page_are_those_of_the_matrices(model, outputs):
    checkpoint, survey = model
    held = table(outputs["histograms"])
    ranked = survey.sort_values("kl_bits").to_dict("records")
    assert held["name"] == [row["tensor"].replace("\u202e", "\\u202e") for row in ranked]
    for at, row in enumerate(ranked):
        sketch = law_sketch(checkpoint, row["tensor"])
        edges, counts = lfmlib.coding_cells(sketch, interactive.CELL_STD)
        assert held["counts"][at] == counts.tolist() and held["weights"][at] == row["numel"] == sketch.count
        assert np.allclose(held["edges"][at], 1000 * (edges - sketch.mean) / sketch.std, atol=0.51)
        values = np.abs(checkpoint.read(row["tensor"]).numpy().astype(np.float64) - row["mean"]) / row["std"]
        assert held["farthest"][at] == f"{values.max():.1f}"
        assert held["far"][at].replace("none", "0") == str(sketch.count - sum(held["counts"][at]))
        assert held["kl"][at] == f"{row['kl_bits']:.4f}" and held["tail"][at] == f"{row['tail_bits']:.4f}"
        assert float(held["kl_noise"][at]) == pytest.approx(row["kl_bits_null_high"], rel=0.05)
        assert float(held["tail_noise"][at]) == pytest.approx(row["tail_bits_null_high"], rel=0.05)
        noise, z = np.array(held["noise"][at]), np.array(held["edges"][at]) / 1000
        expected = held["noise_count"][at] * np.diff([math.erf(one / math.sqrt(2)) / 2 for one in z])
        assert (np.abs(noise - expected) <= 5 * np.sqrt(expected) + 1).all()  # five standard errors


def test_the_noise_beside_a_matrix_is_its_twin(model):
    _, survey = model
    twins = lfmlib.noise_twin(survey, seed=3).set_index("tensor")
    for row in survey.to_dict("records"):
        assert lfmlib.normality(noise_like(row, 3).law).kl_bits == twins.loc[row["tensor"], "kl_bits"]


def test_forty_histograms_are_at_most_sixty_kilobytes(model, monkeypatch):
    rng, kept = np.random.default_rng(1), []
    monkeypatch.setattr(interactive, "display", lambda data, raw: kept.append(data))
    made = {f"model.layers.{at}.self_attn.query_key_value.weight": rng.laplace(size=(512, 512)) for at in range(45)}
    checkpoint = lfmlib.open_checkpoint({name: values.astype(np.float32) for name, values in made.items()})
    survey = lfmlib.survey(checkpoint, progress=False)
    notebook.histograms(checkpoint, survey)
    assert len(table(kept[0])["name"]) == 40 and "40 of 45, evenly chosen" in place(kept[0]).get_text()
    assert len(kept[0]["text/html"].encode()) <= 60_000
    survey["numel"] = 1 << 26  # of such matrices only a few are counted again
    some = interactive.sampled(survey)
    assert len(some) == 4 and {survey["kl_bits"].min(), survey["kl_bits"].max()} <= set(some["kl_bits"])


def test_the_edge_in_the_page_is_the_law_and_what_was_made(outputs):
    held = table(outputs["edge"])
    made = interactive.planted(SHAPE, 3)
    assert {name: held[name] for name in made} == json.loads(json.dumps(made))
    limit = sum(map(math.sqrt, SHAPE))
    assert held["threshold"] == pytest.approx((96 * 256) ** 0.25 / limit, abs=1e-4)
    lost = [top for strength, top in zip(held["strength"], held["top"], strict=True) if strength < held["threshold"]]
    assert set(lost) == {1.0} and max(held["top"]) < 2
    x, density = np.array(held["law"]).T
    assert np.trapezoid(density, x) == pytest.approx(1, abs=0.005) and x.max() == 1
    assert sum(held["counts"]) == min(SHAPE) and held["edges"][-1] == 2
    for strength, *found in held["made"]:
        at = held["strength"].index(strength)
        if not 0.35 < strength < 0.7:  # near the threshold a matrix of this size is not yet the limit
            assert found == pytest.approx([held[name][at] for name in ("top", "left", "right")], abs=0.13)


def test_a_sentence_stands_where_no_script_runs(outputs, tmp_path):
    """As in JupyterLab and on a terminal; and in a one-file report, which brings no script."""
    cells = [new_markdown_cell("# A chapter?")]
    for kind, output in outputs.items():
        found = place(output)
        assert found["class"] == ["lfm-touch", f"lfm-{kind}", "mathjax_ignore"] and found["data-kind"] == kind
        assert found.get_text() == output["text/plain"] and not found.find(["script", "img"])
        cells.append(new_code_cell("", outputs=[new_output("display_data", output)], execution_count=1))
    (tmp_path / "01_chapter.ipynb").write_text(nbformat.writes(new_notebook(cells=cells)), encoding="utf-8")
    path = one_file.write_report(tmp_path / "01_chapter.ipynb", tmp_path / "report.html", root=ROOT)
    text = path.read_text(encoding="utf-8")
    assert "lfm-touch" in text and "ResizeObserver" not in text
    report = BeautifulSoup(text, "html.parser")
    assert [one.get_text() for one in report.select(".lfm-otherwise")] == [
        one["text/plain"] for one in outputs.values()
    ]
    said = outputs["edge"]["text/plain"]
    held = table(outputs["edge"])
    at = held["strength"].index(1.0)
    assert f"up to {held['threshold']:.2f} edges" in said
    assert f"At 1 it lies at {held['top'][at]:.2f}, and {100 * held['left'][at]:.0f}\u00a0%" in said


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser, outputs, tmp_path):
    """Open the page of the outputs; a message on the console or an error fails the test at its end."""
    static = ROOT / "book" / "_static"
    styles, scripts = (
        [(static / name).read_text(encoding="utf-8") for name in names]
        for names in (("lfm.css", "report.css"), ("lfm.js", "lfm-touch.js"))
    )
    head = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Touch</title>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += "".join(f"<style>{one}</style>" for one in styles) + "".join(f"<script>{one}</script>" for one in scripts)
    body = "".join(one["text/html"] for one in outputs.values())
    (tmp_path / "page.html").write_text(f"{head}<main><h1>Touch</h1>{body}</main></html>", encoding="utf-8")
    contexts, wrong = [], []

    def visit(**settings):
        context = browser.new_context(reduced_motion="reduce", **({"viewport": SCREENS["desk"]} | settings))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def press(page, key: str, times: int = 1) -> None:
    for _ in range(times):
        page.keyboard.press(key)


def test_the_planted_direction_is_moved_by_keyboard(visit, outputs):
    held, page = table(outputs["edge"]), visit()
    slider, said = page.get_by_label("strength of the planted direction"), page.locator(".lfm-edge output")
    expect(said).to_contain_text("Strength 1.00: seen.")
    slider.focus()
    press(page, "Home")
    expect(said).to_have_text(held["nothing"])
    press(page, "ArrowRight")
    expect(said).to_contain_text("Strength 0.01: lost.")
    expect(slider).to_have_attribute("aria-valuetext", "0.01 of the edge")
    for _ in range(2):  # the same to both sides of the threshold
        at = next(k for k, strength in enumerate(held["strength"]) if strength > held["threshold"])
        slider.fill(str(at - 1))
        expect(said).to_contain_text(f"Strength {held['strength'][at - 1]:.2f}: lost. Up to {held['threshold']:.2f}")
        expect(page.locator(".lfm-edge svg")).to_contain_text("lost in the noise")
        press(page, "ArrowRight")
        expect(said).to_contain_text(f"Strength {held['strength'][at]:.2f}: seen.")
    press(page, "End")
    expect(said).to_have_text(
        f"Strength 1.70: seen. The largest singular value lies at {held['top'][-1]:.2f}, outside the noise. Of the "
        f"planted direction, {100 * held['left'][-1]:.0f}\u00a0% is recovered over the rows and "
        f"{100 * held['right'][-1]:.0f}\u00a0% over the columns."
    )


def test_the_planted_direction_is_dragged(visit):
    page = visit()
    said, svg = page.locator(".lfm-edge output"), page.locator(".lfm-edge svg")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    left, right = box["x"] + 44, box["x"] + box["width"] - 14

    def at(strength: float) -> tuple[float, float]:
        return left + strength / 2 * (right - left), box["y"] + 300

    page.mouse.move(*at(0.8))
    expect(said).to_contain_text("Strength 1.00")  # no button is pressed
    page.mouse.down()
    expect(said).to_contain_text("Strength 0.80")
    page.mouse.move(*at(0.2))
    expect(said).to_contain_text("Strength 0.20: lost.")
    page.mouse.move(*at(1.95))
    expect(said).to_contain_text("Strength 1.70")
    page.mouse.up()
    page.mouse.move(*at(0.5))
    expect(said).to_contain_text("Strength 1.70")


def test_matrix_and_axis_are_chosen_by_keyboard(visit, outputs):
    held, page = table(outputs["histograms"]), visit()
    part, said = page.locator(".lfm-histograms"), page.locator(".lfm-histograms output")
    choice, ticks = part.locator("select"), part.locator("svg .lfm-axes text")

    def tells(at: int, axis: str) -> None:
        words = {name: held[name][at] for name in held if f"{{{name}}}" in held["sentence"]}
        expect(said).to_have_text(held["sentence"].format(**words))
        label = f"Density of {held['name'][at]} on a {axis} axis, with that of noise and the Gaussian."
        expect(part.locator("svg")).to_have_attribute("aria-label", label)
        assert peak(page) == pytest.approx(densest(held, at), rel=0.01)

    tells(2, "linear")
    choice.focus()
    press(page, "ArrowDown")
    tells(3, "linear")
    press(page, "Home")
    tells(0, "linear")
    part.get_by_role("radio", name="linear").focus()
    assert not any("10⁻" in one for one in ticks.all_text_contents())
    press(page, "ArrowRight")
    expect(part.get_by_role("radio", name="logarithmic")).to_be_checked()
    assert "10⁻²" in ticks.all_text_contents()
    tells(0, "logarithmic")
    choice.select_option(held["name"][4])
    tells(4, "logarithmic")


def densest(held: dict, at: int) -> float:
    return max(np.array(held["counts"][at]) / held["weights"][at] / (np.diff(held["edges"][at]) / 1000))


def peak(page) -> float:
    """The density that the highest point of the drawn histogram stands for, read off the axis that is drawn."""
    heights = page.evaluate(
        """() => {
          const svg = document.querySelector(".lfm-histograms svg");
          const labels = [...svg.querySelectorAll(".lfm-axes text")];
          const points = svg.querySelector("[data-part=weights]").getAttribute("d").match(/[\\d.]+ [\\d.]+/g);
          const up = labels.filter((one) => /^y.*-label$/.test(one.dataset.part)).map((one) =>
            [Number(one.dataset.part.slice(1, -6)), one.getAttribute("y") - 4]);
          return {up, top: Math.min(...points.map((one) => Number(one.split(" ")[1])))};
        }"""
    )
    (low, base), (high, head) = heights["up"][0], heights["up"][-1]
    share = (base - heights["top"]) / (base - head)
    return low + share * (high - low) if not low else low * (high / low) ** share


def test_curves_are_asked_by_keyboard(visit):
    page = visit()
    said = page.locator(".lfm-explore output")
    expect(said).to_have_text("1 % of one replaced by noise: 90\u00a0% is left.")
    page.get_by_label("share replaced").focus()
    press(page, "End")
    expect(said).to_have_text("100 % of one replaced by noise: 10\u00a0% is left.")
    press(page, "ArrowLeft", 50)  # a power of ten, halfway between two points
    expect(said).to_have_text("10 % of one replaced by noise: 50\u00a0% is left.")
    page.get_by_label("model").select_option("two")
    page.get_by_label("replaced by").focus()
    press(page, "ArrowDown")
    expect(said).to_have_text("10 % of two replaced by zeros: 20\u00a0% is left.")
    expect(page.get_by_label("share replaced")).to_have_attribute("aria-valuetext", "10\u00a0%")


FITS = "svg => Math.abs(svg.viewBox.baseVal.width - svg.getBoundingClientRect().width) < 1"


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_wide_and_narrow_in_light_and_dark(visit, screen, scheme):
    page = visit(viewport=SCREENS[screen], color_scheme=scheme)
    expect(page.locator(".lfm-touch.lfm-on")).to_have_count(3)
    for logarithmic in (False, True):
        page.get_by_role("radio", name="logarithmic" if logarithmic else "linear").check()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.set_viewport_size({"width": 320, "height": 700})  # letters keep their size in another width
    for svg in page.locator("svg.lfm-picture").all():
        page.wait_for_function(FITS, arg=svg.element_handle())
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_on_paper_the_pictures_stay_and_the_sentence_takes_the_place_of_controls(visit, outputs):
    page = visit()
    for one in page.locator(".lfm-otherwise").all():
        expect(one).to_be_hidden()
    page.emulate_media(media="print")
    for one, output in zip(page.locator(".lfm-otherwise").all(), outputs.values(), strict=True):
        expect(one).to_be_visible()
        expect(one).to_have_text(output["text/plain"])
    for control in page.locator(":is(input, select, meter, label, fieldset)").all():
        expect(control).to_be_hidden()
    expect(page.locator("svg.lfm-picture:visible")).to_have_count(2)


def test_without_a_script_the_sentences_are_seen(visit):
    page = visit(java_script_enabled=False)
    expect(page.locator(".lfm-otherwise:visible")).to_have_count(3)
    expect(page.locator("svg, select, input")).to_have_count(0)
