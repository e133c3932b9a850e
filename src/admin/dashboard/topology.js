// The nodes with their roles, and arrows of replication from the primary.

import { svg } from "./chart.js";

const WIDE = 190, TALL = 96, GAP = 16, DROP = 62;

export const bytes = (count) => {
  if (count === null || count === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit++; }
  return `${count >= 100 || unit === 0 || Number.isInteger(count) ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
};

export const ms = (value) => {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(value < 10000 ? 1 : 0)} s`;
  if (value > 0 && value < 1) return `${Math.max(1, Math.round(value * 1000))} µs`;
  return `${value >= 10 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ms`;
};

/** Draws into `parent`, as wide as it is. */
export function topology(parent, status) {
  const width = Math.max(parent.clientWidth, 260);
  const leader = status.nodes.find((node) => node.name === status.primary);
  const others = status.nodes.filter((node) => node !== leader);
  const narrow = width < 2 * WIDE + GAP;
  const parts = narrow ? tower(width, leader, others) : tree(width, leader, others);
  const { height, shapes } = parts;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": words(status) });
  picture.append(...shapes);
  parent.replaceChildren(picture);
}

const words = (status) => status.nodes
  .map((node) => `${node.name}: ${node.state}${node.role ? `, ${node.role}, timeline ${node.timeline}` : ""}`).join("; ");

/** Wide: the primary above, the others in rows below. */
function tree(width, leader, others) {
  const columns = Math.max(1, Math.min(others.length, Math.floor((width + GAP) / (WIDE + GAP))));
  const shapes = [], boxes = [];
  const middle = width / 2;
  others.forEach((node, index) => {
    const row = Math.floor(index / columns);
    const inRow = Math.min(columns, others.length - row * columns);
    const spread = Math.min((width - WIDE * inRow) / (inRow + 1), 120);
    const begin = middle - (inRow * WIDE + (inRow - 1) * spread) / 2;
    const x = begin + (index % columns) * (WIDE + spread);
    const y = TALL + DROP + row * (TALL + GAP);
    const state = link(leader, node);
    if (row === 0) {
      const to = x + WIDE / 2, half = TALL + DROP / 2;
      shapes.push(...arrow(`M${middle} ${TALL + 2}C${middle} ${half} ${to} ${half} ${to} ${y - 9}`, to, y - 2, state, 0));
    }
    boxes.push(box(x, y, WIDE, node, leader));
  });
  boxes.push(leader ? box(middle - WIDE / 2, 2, WIDE, leader, leader) : nobody(middle - WIDE / 2, 2, WIDE));
  const rows = Math.ceil(others.length / columns);
  return { height: others.length ? TALL + DROP + rows * (TALL + GAP) - GAP + 4 : TALL + 4, shapes: [...shapes, ...boxes] };
}

/** Narrow: one below the other, along a trunk. */
function tower(width, leader, others) {
  const shapes = [leader ? box(1, 2, width - 2, leader, leader) : nobody(1, 2, width - 2)];
  const inset = 34;
  others.forEach((node, index) => {
    const y = TALL + GAP + index * (TALL + 12);
    const middle = y + TALL / 2;
    shapes.unshift(...arrow(`M14 ${TALL + 2}V${middle - 8}Q14 ${middle} 22 ${middle}H${inset - 8}`, inset - 1, middle, link(leader, node), 1));
    shapes.push(box(inset, y, width - inset - 1, node, leader));
  });
  return { height: TALL + GAP + others.length * (TALL + 12), shapes };
}

function link(leader, node) {
  if (!leader || node.state !== "up" || node.role !== "standby" || node.timeline !== leader.timeline) return "broken";
  return node.lag_ms > 1000 ? "behind" : "";
}

function arrow(d, x, y, state, sideways) {
  const head = sideways ? `M${x} ${y}l-9 -5v10z` : `M${x} ${y}l-5 -9h10z`;
  return [svg("path", { class: `arrow ${state}`, d }), svg("path", { class: `head ${state}`, d: head })];
}

function box(x, y, width, node, leader) {
  const kind = node.state === "up" ? node.role : node.state;
  const group = svg("g", { class: `node ${kind}`, transform: `translate(${x} ${y})` });
  const role = node.state === "up" ? (node.drain ? `${node.drain.state} ${node.role}` : node.role) : node.role ? `${node.state} ${node.role}` : node.state;
  const place = node.timeline ? `timeline ${node.timeline} · ${node.position ?? ""}` : `${node.host}:${node.port}`;
  let last = "not reachable";
  if (node === leader) last = `${node.transactions_in_flight} in flight`;
  else if (node.state === "up" && node.role === "primary") last = "takes no writes from here";
  else if (node.state === "up" && node.drain?.connections) last = `${node.drain.connections} connections left`;
  else if (node.state === "up") last = `lag ${bytes(node.lag_bytes)} · ${ms(node.lag_ms)}`;
  else if (node.state === "barred") last = "kept away from clients";
  group.append(
    svg("rect", { class: "box", width, height: TALL - 4, rx: 11 }),
    svg("circle", { class: "lamp-dot", cx: 18, cy: 23, r: 5 }),
    svg("text", { class: "name", x: 31, y: 28 }, node.name),
    svg("text", { class: "role", x: width - 14, y: 27, "text-anchor": "end" }, role.toUpperCase()),
    svg("text", { x: 14, y: 54 }, place),
    svg("text", { x: 14, y: 75 }, last),
  );
  return group;
}

function nobody(x, y, width) {
  const group = svg("g", { class: "node down", transform: `translate(${x} ${y})` });
  group.append(
    svg("rect", { class: "box", width, height: TALL - 4, rx: 11 }),
    svg("text", { class: "name", x: width / 2, y: 40, "text-anchor": "middle" }, "no primary"),
    svg("text", { x: width / 2, y: 64, "text-anchor": "middle" }, "writes are held"),
  );
  return group;
}
