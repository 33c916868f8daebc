// Labels and roles of the theme and of Sphinx that contradict what is on the page; without them a screen reader reads
// the text itself: the search button's, a folded cell's ("Show code cell source"), the list of references.
document.addEventListener("DOMContentLoaded", () => {
  for (const item of document.querySelectorAll(".search-button-field[aria-label], details > summary[aria-label]")) {
    item.removeAttribute("aria-label");
  }
  for (const item of document.querySelectorAll("nav li > details > summary")) { // an arrow without words
    item.setAttribute("aria-label", `Pages below ${item.closest("li").querySelector("a").textContent.trim()}`);
  }
  for (const list of document.querySelectorAll(".citation-list[role='list']")) {
    list.removeAttribute("role");
  }
  for (const box of document.querySelectorAll(".pst-scrollable-table-container")) {
    box.tabIndex = 0; // a wide table can be scrolled without a mouse
  }
});

// On paper the light theme, whatever is on the screen: the theme's own print style leaves dark pages dark.
let shown = "";
window.addEventListener("beforeprint", () => {
  shown = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
});
window.addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = shown;
});

// Curves that can be asked for a value: two lists and a slider, whose places are on a logarithmic axis (see
// `explore` in lfmlib/book/notebook.py). Between two points a curve is linear in the logarithm.
const percent = (value) => `${(100 * value).toPrecision(2).replace(/e\+?(-?\d+)$/, (_, power) => `·10^${power}`)} %`;

function read(points, x) {
  const after = points.findIndex((point) => point[0] >= x);
  if (after <= 0) return after < 0 ? points[points.length - 1][1] : points[0][1];
  const [[x0, y0], [x1, y1]] = [points[after - 1], points[after]];
  return y0 + ((y1 - y0) * Math.log(x / x0)) / Math.log(x1 / x0);
}

function explorer(place, number) {
  const { curves, sentence } = JSON.parse(place.dataset.curves);
  const control = (tag, words, options) => {
    const item = Object.assign(document.createElement(tag), { id: `lfm-explore-${number}-${words.replace(/\W/g, "-")}` });
    const label = Object.assign(document.createElement("label"), { textContent: words, htmlFor: item.id });
    item.append(...(options ?? []).map((option) => new Option(option)));
    place.append(label, item);
    return item;
  };
  const first = control("select", "model", Object.keys(curves));
  const second = control("select", "replaced by", Object.keys(Object.values(curves)[0]));
  const slider = Object.assign(control("input", "share replaced"), { type: "range", min: -4, max: 0, step: 0.02, value: -2 });
  const meter = control("meter", "left");
  const output = document.createElement("output");
  output.setAttribute("aria-live", "polite");
  place.append(output);
  const show = () => {
    const x = 10 ** slider.valueAsNumber;
    const y = read(curves[first.value][second.value], x);
    const words = { first: first.value, second: second.value, x: percent(x), y: `${Math.round(100 * y)} %` };
    meter.value = Math.min(Math.max(y, 0), 1);
    slider.setAttribute("aria-valuetext", words.x);
    output.textContent = sentence.replace(/\{(\w+)\}/g, (_, name) => words[name]);
  };
  for (const item of [first, second, slider]) item.addEventListener("input", show);
  place.classList.add("lfm-on");
  show();
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".lfm-explore").forEach(explorer));
