"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = 8; // --c0 to --c7 of the style
const LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 36, LABEL = 13; // LABEL: least distance of two names of lines
const hidden = new Set();
let axis = 0, logarithmic = false; // axis 0: tokens, 1: seconds
const charts = [];

function make(kind, content, parent, cls) {
  const element = document.createElement(kind);
  if (content !== null) element.textContent = content;
  if (cls) element.className = cls;
  if (parent) parent.appendChild(element);
  return element;
}
function draw(kind, attributes, parent, content) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  if (content !== undefined) element.textContent = content;
  parent.appendChild(element);
  return element;
}
function short(v) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(v) >= size) return +(v / size).toPrecision(3) + letter;
  return String(+v.toPrecision(3));
}
function time(s) {
  if (s < 120) return +s.toPrecision(3) + " s";
  return s < 7200 ? +(s / 60).toPrecision(3) + " min" : +(s / 3600).toPrecision(3) + " h";
}
const across = v => axis ? time(v) : short(v);
function ticks(low, high, count) {
  const rough = (high - low) / count || 1, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find(m => m * size >= rough);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
  return found;
}
// Round numbers of seconds: minutes and hours have sixties.
function timeTicks(high, count) {
  const unit = high < 120 ? 1 : high < 7200 ? 60 : 3600;
  return ticks(0, high / unit, count).map(v => v * unit);
}

// A chart: title, and series of {name, color, points [[tokens, seconds, value]], thin, dashed, dots}; fromZero: its vertical axis.
function chart(title, seriesOf, lines, height, fromZero) {
  const box = make("div", null, document.getElementById("charts"), "chart");
  make("h2", title, box);
  const svg = draw("svg", {role: "img", "aria-label": title}, box);
  const values = make("div", "", box, "values");
  let scaleX, marker, shown = [];
  const x = point => scaleX(point[axis]);
  function redraw() {
    const width = box.clientWidth - 20;
    if (width < 50) return;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    shown = seriesOf().filter(s => s.points.length && !hidden.has(s.run));
    if (!shown.length) { draw("text", {x: LEFT, y: 30}, svg, "nothing measured"); return; }
    const xs = shown.flatMap(s => s.points.map(p => p[axis]));
    const ys = shown.flatMap(s => s.points.map(p => p[2])).concat(lines.map(l => l[1]));
    const positive = xs.filter(x => x > 0);
    const x0 = logarithmic ? Math.min(...positive) : 0, x1 = Math.max(...xs, x0 * 1.001, 1e-9);
    let y0 = fromZero ? 0 : Math.min(...ys), y1 = Math.max(...ys);
    const pad = (y1 - y0) * 0.05 || Math.abs(y1) * 0.05 || 1;
    y0 = y0 >= 0 ? Math.max(0, y0 - pad) : y0 - pad; y1 += pad;
    const f = logarithmic ? v => Math.log(Math.max(v, x0)) : v => v;
    scaleX = v => LEFT + (width - LEFT - RIGHT) * (f(v) - f(x0)) / (f(x1) - f(x0) || 1);
    const scaleY = v => TOP + (height - TOP - BOTTOM) * (y1 - v) / (y1 - y0);
    for (const v of ticks(y0, y1, Math.max(3, Math.floor(height / 50)))) {
      draw("line", {x1: LEFT, x2: width - RIGHT, y1: scaleY(v), y2: scaleY(v), class: "grid"}, svg);
      draw("text", {x: LEFT - 5, y: scaleY(v) + 4, "text-anchor": "end"}, svg, short(v));
    }
    let along = axis ? timeTicks(x1, Math.max(2, width / 110)) : ticks(x0, x1, Math.max(2, width / 110));
    if (logarithmic) {
      along = [];
      for (let e = Math.floor(Math.log10(x0)); e <= Math.log10(x1); e++)
        for (const m of width > 500 ? [1, 2, 5] : [1]) along.push(m * 10 ** e);
      along = along.filter(v => v >= x0 && v <= x1);
    }
    for (const v of along) {
      draw("line", {x1: scaleX(v), x2: scaleX(v), y1: TOP, y2: height - BOTTOM, class: "grid"}, svg);
      const at = scaleX(v), end = at > width - RIGHT - 22 ? "end" : at < LEFT + 12 ? "start" : "middle";
      draw("text", {x: at, y: height - BOTTOM + 15, "text-anchor": end}, svg, across(v));
    }
    draw("text", {x: (LEFT + width - RIGHT) / 2, y: height - 5, "text-anchor": "middle"}, svg, axis ? "wall time" : "tokens");
    const names = []; // of the lines: drawn last, where no curve crosses them
    let above = -LABEL, moved = 0; // where the name above stands, and how far it was moved to the left
    for (const [name, bits] of [...lines].sort((a, b) => b[1] - a[1])) {
      const at = scaleY(bits);
      moved = at - above < LABEL ? moved + 90 : 0;
      above = at;
      draw("line", {x1: LEFT, x2: width - RIGHT, y1: at, y2: at, class: "base"}, svg);
      names.push([{x: width - RIGHT - 3 - moved, y: at - 4, "text-anchor": "end"}, `${name} ${bits.toFixed(3)}`]);
    }
    for (const s of shown) {
      const at = s.points.filter(p => !logarithmic || p[axis] > 0);
      const path = at.map(p => `${scaleX(p[axis]).toFixed(1)},${scaleY(p[2]).toFixed(1)}`).join(" ");
      draw("polyline", {points: path, class: "line" + (s.thin ? " thin" : "") + (s.dashed ? " dashed" : ""), style: `stroke: ${s.color}`}, svg);
      if (s.dots && at.length < 80) for (const p of at)
        draw("circle", {cx: scaleX(p[axis]), cy: scaleY(p[2]), r: 2.4, style: `fill: ${s.color}`}, svg);
    }
    for (const [place, name] of names) draw("text", place, svg, name);
    marker = draw("line", {y1: TOP, y2: height - BOTTOM, class: "base", visibility: "hidden"}, svg);
  }
  svg.addEventListener("pointermove", event => {
    if (!shown.length || !scaleX) return;
    const pointer = event.clientX - svg.getBoundingClientRect().left;
    const nearest = (points, to) => points.reduce((a, b) => Math.abs(x(b) - to) < Math.abs(x(a) - to) ? b : a);
    const at = nearest(shown.flatMap(s => s.points), pointer);
    // A run says nothing beyond its ends.
    const reached = shown.filter(s => s.points[0][axis] <= at[axis] && at[axis] <= s.points[s.points.length - 1][axis]);
    marker.setAttribute("x1", x(at));
    marker.setAttribute("x2", x(at));
    marker.setAttribute("visibility", "visible");
    values.textContent = `${across(at[axis])}: ` +
      reached.map(s => `${s.name} ${+nearest(s.points, x(at))[2].toPrecision(4)}`).join(", ");
  });
  svg.addEventListener("pointerleave", () => { if (marker) marker.setAttribute("visibility", "hidden"); values.textContent = ""; });
  new ResizeObserver(redraw).observe(box);
  charts.push(redraw);
}

const alone = data.runs.length === 1;
const color = i => `var(--c${i % COLORS})`;
const partColor = k => color(2 + k % (COLORS - 2)); // beside training and the whole
chart("Bits per byte", () => data.runs.flatMap((run, i) => [
  {run: i, name: alone ? "training" : `${run.name}, training`, color: color(i), points: run.train, thin: true},
  {run: i, name: alone ? run.measured_on : run.measured_on === "validation" ? run.name : `${run.name}, ${run.measured_on}`, color: alone ? color(1) : color(i), points: run.validation, dots: true},
  ...(alone ? run.parts : []).map(([name, points], k) => ({run: i, name, color: partColor(k), points, dashed: true, dots: true})),
]), data.lines, 354);
data.charts.forEach(([title], k) => {
  if (!data.runs.some(run => run.figures[k].length)) return;
  chart(title, () => data.runs.map((run, i) =>
    ({run: i, name: alone ? "" : run.name, color: color(i), points: run.figures[k], dots: k === 3})), [], 204, true);
});

const legend = document.getElementById("legend");
if (alone) {
  const parts = data.runs[0].parts.map(([name], k) => [name, partColor(k)]);
  const whole = `${data.runs[0].measured_on}${parts.length ? ", whole" : ""}, exact`;
  for (const [name, shade] of [["training, integer score", color(0)], [whole, color(1)], ...parts]) {
    const item = make("span", null, legend, "soft");
    make("i", null, item).style.background = shade;
    item.appendChild(document.createTextNode(name + "   "));
    item.style.marginRight = "1rem";
  }
} else data.runs.forEach((run, i) => {
  const button = make("button", null, legend);
  make("i", null, button).style.background = color(i);
  button.appendChild(document.createTextNode(run.name));
  button.setAttribute("aria-pressed", "true");
  button.addEventListener("click", () => {
    if (hidden.has(i)) hidden.delete(i); else hidden.add(i);
    button.setAttribute("aria-pressed", String(!hidden.has(i)));
    charts.forEach(redraw => redraw());
  });
});
function press(id, on) { document.getElementById(id).setAttribute("aria-pressed", String(on)); }
for (const [id, number] of [["tokens", 0], ["time", 1]])
  document.getElementById(id).addEventListener("click", () => {
    axis = number;
    press("tokens", !axis); press("time", Boolean(axis));
    charts.forEach(redraw => redraw());
  });
document.getElementById("log").addEventListener("click", () => {
  logarithmic = !logarithmic;
  press("log", logarithmic);
  charts.forEach(redraw => redraw());
});
