// Line and stacked-area charts over time, drawn as SVG.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 170, LEFT = 46, RIGHT = 6, TOP = 12, BOTTOM = 22;

export function svg(name, attributes = {}, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

export function html(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export const clock = (ms) => new Date(ms).toTimeString().slice(0, 8);

/** The next round number. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.9999) * power;
}

export class Chart {
  /** `stacked` adds the series up; `least` is the smallest top of the scale. */
  constructor(parent, { title, format, stacked = false, least = 1 }) {
    Object.assign(this, { format, stacked, least, data: null, hover: null });
    const card = html("section", "card chart");
    card.append(html("h3", "", title));
    this.svg = svg("svg", { role: "img", "aria-label": title });
    this.legend = html("ul", "legend");
    this.tip = html("div", "tip");
    this.tip.hidden = true;
    card.append(this.svg, this.legend, this.tip);
    parent.append(card);
    this.svg.addEventListener("pointermove", (event) => { this.hover = event.offsetX; this.redraw(); });
    this.svg.addEventListener("pointerleave", () => { this.hover = null; this.redraw(); });
    new ResizeObserver(() => this.redraw()).observe(this.svg);
  }

  /** `times` in milliseconds; `series` of {name, colour, values, dash}; `marks` of {at, done}. */
  draw(times, series, marks, from, to) {
    this.data = { times, series, marks, from, to };
    this.redraw();
  }

  redraw() {
    if (!this.data) return;
    const { times, marks, from, to } = this.data;
    const width = this.svg.clientWidth || 300;
    const inner = width - LEFT - RIGHT, tall = HEIGHT - TOP - BOTTOM;
    const series = this.stacked ? stack(this.data.series, times.length) : this.data.series;
    let top = 0;
    for (const one of series) for (const value of one.high ?? one.values) if (value > top) top = value;
    top = nice(Math.max(top * 1.08, this.least));
    const x = (at) => LEFT + ((at - from) / (to - from)) * inner;
    const y = (value) => TOP + tall - (value / top) * tall;
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(top * share);
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
      parts.push(svg("text", { x: LEFT - 7, y: at + 4, "text-anchor": "end" }, this.format(top * share)));
    }
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      const at = from + (to - from) * share;
      parts.push(svg("text", { x: x(at), y: HEIGHT - 4, "text-anchor": anchor }, clock(at)));
    }
    for (const one of series) {
      const kind = one.high ? "area" : "line";
      const d = one.high ? area(times, one, x, y) : line(times, one.values, x, y);
      if (d) parts.push(svg("path", { class: `${kind} s${one.colour}${one.dash ? " dash" : ""}`, d }));
    }
    for (const mark of marks) {
      if (mark.at < from || mark.at > to) continue;
      const at = x(mark.at);
      const node = svg("line", { class: mark.done ? "mark done" : "mark", x1: at, x2: at, y1: TOP, y2: TOP + tall });
      node.append(svg("title", {}, mark.text));
      parts.push(node);
    }
    const index = this.hover === null ? -1 : nearest(times, from + ((this.hover - LEFT) / inner) * (to - from));
    if (index >= 0) {
      const at = x(times[index]);
      parts.push(svg("line", { class: "cross", x1: at, x2: at, y1: TOP, y2: TOP + tall }));
      this.point(index, at, width);
    }
    this.tip.hidden = index < 0;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(...parts);
    this.legend.replaceChildren(...this.data.series.map((one) => {
      const item = html("li");
      item.append(html("i", `s${one.colour}${one.dash ? " dash" : ""}`), one.name, html("b", "", this.format(latest(one.values))));
      return item;
    }));
  }

  point(index, at, width) {
    const rows = this.data.series.map((one) => {
      const row = html("div"), name = html("span");
      name.append(html("i", `s${one.colour}`), one.name);
      row.append(name, html("b", "", this.format(one.values[index])));
      return row;
    });
    this.tip.replaceChildren(html("div", "", clock(this.data.times[index])), ...rows);
    const right = at > width / 2;
    this.tip.style.left = right ? "" : `${at + 28}px`;
    this.tip.style.right = right ? `${width - at + 28}px` : "";
  }
}

function latest(values) {
  for (let at = values.length - 1; at >= Math.max(0, values.length - 4); at--) {
    if (values[at] !== null && values[at] !== undefined) return values[at];
  }
  return null;
}

function stack(series, length) {
  let low = new Array(length).fill(0);
  return series.map((one) => {
    const high = one.values.map((value, index) => low[index] + (value ?? 0));
    const stacked = { ...one, low, high };
    low = high;
    return stacked;
  });
}

function line(times, values, x, y) {
  let d = "", pen = false;
  for (let index = 0; index < times.length; index++) {
    const value = values[index];
    if (value === null || value === undefined) { pen = false; continue; }
    d += `${pen ? "L" : "M"}${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = true;
  }
  return d;
}

function area(times, { low, high }, x, y) {
  if (times.length < 2) return "";
  const at = (values) => (index) => `${x(times[index]).toFixed(1)} ${y(values[index]).toFixed(1)}`;
  const order = times.map((_, index) => index);
  return `M${order.map(at(high)).join("L")}L${order.reverse().map(at(low)).join("L")}Z`;
}

function nearest(times, at) {
  if (times.length === 0) return -1;
  let best = 0;
  for (let index = 1; index < times.length; index++) {
    if (Math.abs(times[index] - at) < Math.abs(times[best] - at)) best = index;
  }
  return best;
}
