// Pictures that answer a reader's hand. Their tables are made by lfmlib/book/interactive.py and lie in the page; here
// they are looked up and drawn, as SVG in CSS pixels, so that letters keep their size on a phone.
const put = (text, word) => text.replace(/\{(\w+)\}/g, (_, name) => word(name));

// An element of SVG within another, made at first and changed afterwards.
function mark(within, name, tag, attributes, text) {
  let item = within.querySelector(`:scope > [data-part="${name}"]`);
  if (!item) {
    item = document.createElementNS("http://www.w3.org/2000/svg", tag);
    item.dataset.part = name;
    within.append(item);
  }
  for (const [key, value] of Object.entries(attributes)) item.setAttribute(key, value);
  if (text !== undefined) item.textContent = text;
  return item;
}

const line = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;

// Outline of a histogram, whose edges and heights are in pixels.
const stairs = (edges, heights, base) =>
  line([[edges[0], base], ...heights.flatMap((y, i) => [[edges[i], y], [edges[i + 1], y]]), [edges.at(-1), base]]);

// A frame of two axes: `x` and `y` tell a value's place; `across` and `up` are pairs of a value and its label.
function axes(within, { x, y, base, head, across, up, xlabel, ylabel = "" }) {
  const group = mark(within, "axes", "g", { class: "lfm-axes" });
  group.replaceChildren();
  const [left, right] = [x(across[0][0]), x(across.at(-1)[0])];
  for (const [value, text] of up) {
    mark(group, `y${value}`, "path", { d: `M${left} ${y(value)}H${right}`, class: "lfm-grid" });
    mark(group, `y${value}-label`, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text);
  }
  mark(group, "base", "path", { d: `M${left} ${base}H${right}` });
  for (const [value, text] of across) {
    mark(group, `x${value}`, "path", { d: `M${x(value)} ${base}v5` });
    mark(group, `x${value}-label`, "text", { x: x(value), y: base + 19, "text-anchor": "middle" }, text);
  }
  mark(group, "xlabel", "text", { x: (left + right) / 2, y: base + 37, "text-anchor": "middle" }, xlabel);
  mark(group, "ylabel", "text", { x: left - 6, y: head - 12 }, ylabel);
}

// What stands in a place: labelled controls, a legend, a drawing, a sentence that is read out when it changes.
class Place {
  constructor(element, number) {
    this.element = element;
    this.id = `lfm-touch-${number}`;
    this.table = JSON.parse(element.dataset.table);
  }
  add(tag, properties, ...inside) {
    const item = Object.assign(document.createElement(tag), properties);
    item.append(...inside);
    this.element.append(item);
    return item;
  }
  control(tag, words, properties, ...inside) {
    const id = `${this.id}-${words.replace(/\W+/g, "-")}`;
    this.add("label", { textContent: words, htmlFor: id });
    return this.add(tag, { ...properties, id }, ...inside);
  }
  choice(words, names) {
    return this.control("select", words, {}, ...names.map((name, i) => new Option(name, i)));
  }
  switch(words, names) {
    const box = this.add("fieldset", {}, Object.assign(document.createElement("legend"), { textContent: words }));
    return names.map((name, i) => {
      const button = Object.assign(document.createElement("input"), { type: "radio", name: this.id, checked: !i });
      const label = document.createElement("label");
      label.append(button, name);
      box.append(label);
      return button;
    });
  }
  legend(items) {
    const box = this.add("p", { className: "lfm-legend" });
    for (const [kind, words] of items) {
      const item = document.createElement("span");
      item.append(Object.assign(document.createElement("i"), { className: `lfm-key lfm-${kind}` }), words);
      box.append(item);
    }
  }
  picture(height) {
    const svg = mark(this.element, "picture", "svg", { class: "lfm-picture", role: "img" });
    this.size = () => {
      const width = Math.max(svg.getBoundingClientRect().width || 640, 260);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      return width;
    };
    return svg;
  }
  output() {
    const item = this.add("output", {});
    item.setAttribute("aria-live", "polite");
    return item;
  }
  // Draw now, whenever a control changes, and when the place gets another width.
  start(show, controls) {
    for (const item of controls) item.addEventListener("input", show);
    this.element.classList.add("lfm-on");
    let width = this.element.clientWidth;
    new ResizeObserver(() => {
      if (this.element.clientWidth !== width && !matchMedia("print").matches) {
        width = this.element.clientWidth;
        show();
      }
    }).observe(this.element);
    show();
  }
}

const percent = (value) => `${Number((100 * value).toPrecision(2))}\u00a0%`;

// Between two points a curve is linear in the logarithm.
function read(points, x) {
  const after = points.findIndex((point) => point[0] >= x);
  if (after <= 0) return after < 0 ? points[points.length - 1][1] : points[0][1];
  const [[x0, y0], [x1, y1]] = [points[after - 1], points[after]];
  return y0 + ((y1 - y0) * Math.log(x / x0)) / Math.log(x1 / x0);
}

// Curves that can be asked for a value: two lists and a slider, whose places are on a logarithmic axis.
function explore(place) {
  const { curves, sentence } = place.table;
  const [firsts, seconds] = [Object.keys(curves), Object.keys(Object.values(curves)[0])];
  const first = place.choice("model", firsts);
  const second = place.choice("replaced by", seconds);
  const slider = place.control("input", "share replaced", { type: "range", min: -4, max: 0, step: 0.02, value: -2 });
  const meter = place.control("meter", "left", {});
  const output = place.output();
  place.start(() => {
    const x = 10 ** slider.valueAsNumber;
    const [one, other] = [firsts[first.value], seconds[second.value]];
    const y = read(curves[one][other], x);
    meter.value = Math.min(Math.max(y, 0), 1);
    slider.setAttribute("aria-valuetext", percent(x));
    const words = { first: one, second: other, x: percent(x), y: `${Math.round(100 * y)}\u00a0%` };
    output.textContent = put(sentence, (name) => words[name]);
  }, [first, second, slider]);
}

// The histogram of a matrix, of noise like it, and the Gaussian, in units of the standard deviation.
const raised = (power) => [...String(power)].map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻").join("");
const gaussian = (z) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
const BELL = Array.from({ length: 121 }, (_, k) => -6 + k / 10).map((z) => [z, gaussian(z)]);

function histograms(place) {
  const table = place.table;
  const list = place.choice(table.list, table.name);
  list.value = Math.floor(table.name.length / 2);
  const [linear, logarithmic] = place.switch("density axis", ["linear", "logarithmic"]);
  place.legend([["data", "weights"], ["noise", "noise of that size and type"], ["model", "Gaussian"]]);
  const height = 320;
  const svg = place.picture(height);
  const output = place.output();
  // The axis of all matrices ends below the density of a single weight, at an even power of ten.
  const least = 2 * Math.floor(Math.log10(Math.min(...table.weights.map((count) => 2 / count))) / 2);
  const show = () => {
    const [i, log, width] = [list.value, logarithmic.checked, place.size()];
    const cells = table.edges[i];
    const density = (counts, total) => counts.map((n, k) => (1000 * n) / total / (cells[k + 1] - cells[k]));
    const weights = density(table.counts[i], table.weights[i]);
    const noise = density(table.noise[i], table.noise_count[i]);
    const top = Math.ceil(10 * Math.max(...weights, 0.45)) / 10;
    const [left, right, head, base] = [44, width - 10, 30, height - 44];
    const x = (z) => left + ((Math.max(-6, Math.min(z, 6)) + 6) / 12) * (right - left);
    const share = (value) => (log ? 1 - Math.log10(Math.max(value, 10 ** least)) / least : value / top);
    const y = (value) => base - share(value) * (base - head);
    const step = top > 1 ? 0.5 : 0.2;
    const up = log
      ? Array.from({ length: 1 - least / 2 }, (_, k) => 2 * k + least).map((k) => [10 ** k, k ? `10${raised(k)}` : "1"])
      : Array.from({ length: Math.floor(top / step + 1.01) }, (_, k) => [k * step, k ? (k * step).toFixed(1) : "0"]);
    const across = [-6, -4, -2, 0, 2, 4, 6].map((z) => [z, String(z).replace("-", "−")]);
    axes(svg, { x, y, base, head, across, up, xlabel: "(weight − mean) / standard deviation", ylabel: "density" });
    const edges = cells.map((edge) => x(edge / 1000));
    const drawn = (heights) => stairs(edges, heights.map(y), base);
    mark(svg, "area", "path", { class: "lfm-area lfm-data", d: drawn(weights) });
    mark(svg, "noise", "path", { class: "lfm-line lfm-noise", d: drawn(noise) });
    mark(svg, "weights", "path", { class: "lfm-line lfm-data", d: drawn(weights) });
    const bell = BELL.filter(([, value]) => share(value) > 0).map(([z, value]) => [x(z), y(value)]);
    mark(svg, "bell", "path", { class: "lfm-line lfm-model", d: line(bell) });
    const axis = log ? "logarithmic" : "linear";
    const words = `Density of ${table.name[i]} on a ${axis} axis, with that of noise and the Gaussian.`;
    svg.setAttribute("aria-label", words);
    output.textContent = put(table.sentence, (name) => table[name][i]);
  };
  place.start(show, [list, linear, logarithmic]);
}

// A direction planted in noise: above the singular values, below what is recovered of it by its strength, on one axis.
function edge(place) {
  const table = place.table;
  const [rows, columns] = table.shape.map((side) => side.toLocaleString("en"));
  place.legend([
    ["noise", "singular values of noise"],
    ["model", "their law"],
    ["largest", "the largest singular value"],
    ["data", `recovered over the ${rows} rows`],
    ["other", `over the ${columns} columns`],
    ["made", "in made matrices"],
  ]);
  const svg = place.picture(424);
  const slider = place.control("input", "strength of the planted direction", {
    type: "range", min: 0, max: table.strength.length - 1, step: 1, value: table.strength.indexOf(1),
  });
  const output = place.output();
  const area = table.counts.reduce((sum, n) => sum + n, 0) * (table.edges[1] - table.edges[0]);
  const heights = table.counts.map((n) => n / area);
  const most = 1.05 * Math.max(...heights, ...table.law.map(([, density]) => density));
  const [ground, floor] = [172, 378];
  let x;
  const show = () => {
    const [left, right] = [44, place.size() - 14];
    x = (value) => left + (value / 2) * (right - left);
    const upper = (density) => ground - (density / most) * 136;
    const lower = (share) => floor - share * 128;
    const across = [0, 0.5, 1, 1.5, 2].map((value) => [value, String(value)]);
    const k = slider.valueAsNumber;
    const [strength, top] = [table.strength[k], table.top[k]];
    const seen = strength > table.threshold;
    const [from, to] = [x(strength), x(top)];
    mark(svg, "way", "path", {
      class: "lfm-way", d: `M${from} ${floor}V244C${from} 206 ${to} 246 ${to} 206V${ground}`,
    });
    const spectrum = mark(svg, "spectrum", "g", {});
    axes(spectrum, { x, y: upper, base: ground, head: 20, across, up: [], xlabel: "singular value / edge of noise" });
    const bars = stairs(table.edges.map(x), heights.map(upper), ground);
    mark(spectrum, "bars", "path", { class: "lfm-area lfm-noise", d: bars });
    const law = line(table.law.map(([z, density]) => [x(z), upper(density)]));
    mark(spectrum, "law", "path", { class: "lfm-line lfm-model", d: law });
    mark(spectrum, "edge", "path", { class: "lfm-dots", d: `M${x(1)} ${ground}V16` });
    mark(spectrum, "edge-name", "text", { x: x(1) + 6, y: 24 }, "edge of noise");
    const recovered = mark(svg, "recovered", "g", {});
    const up = [[0, "0 %"], [0.5, "50 %"], [1, "100 %"]];
    const xlabel = "strength of the planted direction / edge of noise";
    axes(recovered, { x, y: lower, base: floor, head: 250, across, up, xlabel });
    mark(recovered, "threshold", "path", { class: "lfm-dots", d: `M${x(table.threshold)} ${floor}V240` });
    [["left", "data"], ["right", "other"]].forEach(([side, kind], at) => {
      const curve = line(table.strength.map((s, place) => [x(s), lower(table[side][place])]));
      mark(recovered, side, "path", { class: `lfm-line lfm-${kind}`, d: curve });
      table.made.forEach((one, number) => {
        const [cx, cy] = [x(one[0]), lower(one[2 + at])];
        mark(recovered, `${side}${number}`, "circle", { class: `lfm-dot lfm-${kind}`, cx, cy, r: 2.5 });
      });
    });
    mark(svg, "stick", "path", { class: "lfm-stick", d: `M${to} ${ground}V58` });
    mark(svg, "ball", "circle", { class: seen ? "lfm-ball" : "lfm-ball lfm-lost", cx: to, cy: 58, r: 6 });
    mark(svg, "value", "text", { class: "lfm-value", x: to + 11, y: 63 }, seen ? top.toFixed(2) : "lost in the noise");
    mark(svg, "handle", "circle", { class: "lfm-handle", cx: from, cy: floor, r: 6 });
    const words = { strength: strength.toFixed(2), top: top.toFixed(2), threshold: table.threshold.toFixed(2) };
    for (const side of ["left", "right"]) words[side] = `${Math.round(100 * table[side][k])}\u00a0%`;
    slider.setAttribute("aria-valuetext", `${words.strength} of the edge`);
    svg.setAttribute("aria-label", put(table.picture, (name) => words[name]));
    output.textContent = put(k ? (seen ? table.seen : table.lost) : table.nothing, (name) => words[name]);
  };
  const drag = (event) => {
    if (event.type === "pointerdown") svg.setPointerCapture(event.pointerId);
    if (!svg.hasPointerCapture(event.pointerId)) return;
    const value = (2 * (event.clientX - svg.getBoundingClientRect().left - x(0))) / (x(2) - x(0));
    slider.value = Math.round(value / table.strength[1]);
    slider.dispatchEvent(new Event("input"));
  };
  slider.style.width = `calc((100% - 58px) * ${table.strength.at(-1) / 2} + 16px)`; // its thumb stands below the handle
  for (const kind of ["pointerdown", "pointermove"]) svg.addEventListener(kind, drag);
  place.start(show, [slider]);
}

const PICTURES = { explore, histograms, edge };
document.addEventListener("DOMContentLoaded", () => {
  for (const [number, element] of document.querySelectorAll(".lfm-touch").entries()) {
    PICTURES[element.dataset.kind](new Place(element, number));
  }
});
