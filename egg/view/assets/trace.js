"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text"), details = document.getElementById("details");
const spans = [];
let at = 0;

function make(kind, content, parent, cls) {
  const element = document.createElement(kind);
  if (content !== null && content !== undefined) element.textContent = content;
  if (cls) element.className = cls;
  if (parent) parent.appendChild(element);
  return element;
}
const color = bits => (data.scale.find(([end]) => bits <= end) || [0, data.beyond])[1];
const percent = share => (100 * share).toFixed(share < 0.0995 ? 2 : 1) + " %";
const number = v => v.toLocaleString("en-US");

// The text: a span for each character, of the colour of its bytes' surprise together.
for (const [shown, first, count] of data.characters) {
  let bits = 0;
  for (let t = first; t < first + count; t++) bits += data.surprise[t - 1];
  const span = make("span", shown, text);
  span.style.background = color(bits);
  span.title = bits.toFixed(2) + " bits";
  if (shown === "⏎" || shown === "⇥") span.className = "mark";
  span.addEventListener("click", () => show(at >= first && at < first + count - 1 ? at + 1 : first));
  for (let t = first; t < first + count; t++) spans[t] = span;
  if (shown === "⏎") text.appendChild(document.createTextNode("\n"));
}

function show(t) {
  at = Math.max(0, Math.min(data.bytes.length - 1, t));
  for (const span of text.children) span.classList.remove("on");
  if (spans[at]) spans[at].classList.add("on");
  details.replaceChildren();
  const turn = make("span", null, details, "turn");
  const back = make("button", "◀", turn), on = make("button", "▶", turn);
  back.setAttribute("aria-label", "the byte before");
  on.setAttribute("aria-label", "the next byte");
  back.addEventListener("click", () => show(at - 1));
  on.addEventListener("click", () => show(at + 1));
  const name = data.names[at];
  make("h2", `Byte ${at} of ${data.bytes.length - 1}: ${name} (${data.bytes[at]})`, details);
  if (at === 0) {
    make("p", "The NUL that begins every document: it sets the state to zero.", details);
  } else {
    const bits = data.surprise[at - 1];
    const [likeliest, p] = data.next[at - 1][0];
    make("p", `Surprise ${bits.toFixed(2)} bits: it had ${percent(2 ** -bits)}, rank ${data.rank[at - 1]} of 256. ` +
      `Expected was ${data.characters_of[likeliest]} with ${percent(p)}.`, details);
  }
  make("p", "Expected next:", details, "soft");
  const list = make("div", null, details, "expected");
  for (const [byte, p] of data.next[at]) {
    make("b", data.characters_of[byte], list);
    make("div", null, list, "bar").style.width = Math.max(0.4, 100 * p) + "%";
    make("span", percent(p), list);
  }
  const wide = make("div", null, details, "wide");
  const table = make("table", null, wide), head = make("tr", null, table);
  for (const title of ["stage", "min", "max", "mean |v|", "clipped", "room", "open"]) make("th", title, head);
  let layer = null;
  for (const stage of data.stages) {
    const [, number_, rest] = stage.name.match(/^(?:layers\.(\d+)\.)?(.*?)(?:\.weight)?$/);
    if (number_ !== layer) {
      const row = make("tr", null, table, "layer");
      make("td", number_ === undefined ? (layer === null ? "before" : "after") : `layer ${number_}`, row).colSpan = 7;
      layer = number_;
    }
    const row = make("tr", null, table);
    make("td", rest, row, stage.sum ? "sum" : "");
    make("td", number(stage.min[at]), row);
    make("td", number(stage.max[at]), row);
    make("td", stage.sum ? number(Math.round(stage.mean[at])) : stage.mean[at].toFixed(1), row);
    make("td", percent(stage.clipped[at]), row);
    make("td", stage.headroom ? stage.headroom[at].toFixed(1) : "", row);
    make("td", stage.open ? stage.open[at].toFixed(3) : "", row);
  }
}

document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowRight") { show(at + 1); event.preventDefault(); }
  if (event.key === "ArrowLeft") { show(at - 1); event.preventDefault(); }
});
show(1);
