// The page: takes the feed, and keeps everything that is shown up to date.

import { Chart, clock, html } from "./chart.js";
import { bytes, ms, topology } from "./topology.js";
import { drainButton, setAccess, setStatus } from "./orders.js";

const $ = (id) => document.getElementById(id);
const KEPT = 600;
let points = [], events = [], status = null, span = 120;

// Reasons, in the order in which they are stacked; reads on standbys first.
const REASONS = [
  ["standby.same_standby", "same standby", 1], ["standby.caught_up", "caught up", 5], ["standby.nothing_seen", "nothing seen", 3],
  ["standby.eventual", "eventual", 6], ["standby.held", "held on standby", 7], ["primary.write", "write", 0],
  ["primary.held", "held on primary", 4], ["primary.standbys_behind", "standbys behind", 2], ["primary.no_standby", "no standby", 7],
  ["primary.standbys_full", "standbys full", 5],
  ["primary.level_primary", "level primary", 3], ["primary.neutral", "neutral", 6], ["primary.refused_by_standby", "refused by standby", 4],
];
const KIND = {
  primary_failed: "bad", impostor: "bad", request_refused: "warn", quarantined: "warn", fenced: "warn", called_off: "warn",
  reload_refused: "bad", drained: "warn", paused: "warn", undrained: "good", resumed: "good", reloaded: "good",
  promoted: "good", primary_found: "good", rejoined: "good", restored: "good", request_done: "good",
};

const count = (value) => {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)}k`;
  return value >= 10 || Number.isInteger(value) ? `${Math.round(value)}` : value.toFixed(1);
};

const charts = {
  routes: new Chart($("charts"), { title: "Where statements go, and why (per second)", format: count, stacked: true, least: 10 }),
  latency: new Chart($("charts"), { title: "Latency as clients see it", format: ms, least: 1 }),
  lagMs: new Chart($("charts"), { title: "Replication lag in time", format: ms, least: 5 }),
  lagBytes: new Chart($("charts"), { title: "Replication lag in bytes", format: bytes, least: 1000 }),
  waits: new Chart($("charts"), { title: "Promise kept (per second)", format: count, least: 1 }),
  pools: new Chart($("charts"), { title: "Server connections in use, and clients waiting", format: count, least: 5 }),
};

/** Change per second of a counter, over two seconds each; none over a gap or a restart. */
function rate(list, read) {
  return list.map((point, index) => {
    const before = list[Math.max(0, index - 4)];
    const seconds = (point.at_ms - before.at_ms) / 1000;
    const change = read(point) - read(before);
    return seconds > 0 && seconds < 8 && change >= 0 ? change / seconds : null;
  });
}

/** The mean of a gauge over two seconds each: what is looked at twice a second jumps. */
function mean(list, read) {
  return list.map((_, index) => {
    const part = list.slice(Math.max(0, index - 3), index + 1).map(read).filter((value) => value != null);
    return part.length > 0 ? part.reduce((sum, value) => sum + value, 0) / part.length : null;
  });
}

/** Change per second over the latest seconds, for a figure that can be read. */
function recent(read, seconds = 5) {
  const last = points.at(-1);
  const first = last && points.find((point) => point.at_ms >= last.at_ms - seconds * 1000);
  if (!last || first === last) return 0;
  return Math.max(0, (read(last) - read(first)) / ((last.at_ms - first.at_ms) / 1000));
}

const total = (point, side) => Object.entries(point.routes)
  .reduce((sum, [key, value]) => (key.startsWith(side) ? sum + value : sum), 0);

function draw() {
  if (!status || points.length === 0) return;
  const to = points.at(-1).at_ms, from = to - span * 1000;
  // Some points from before, so that lines and rates begin at the edge.
  const begin = Math.max(0, points.findIndex((point) => point.at_ms >= from) - 4);
  const shown = points.slice(begin);
  const times = shown.map((point) => Math.max(point.at_ms, from));
  const marks = events.filter((event) => ["primary_failed", "promoted"].includes(event.kind))
    .map((event) => ({ at: event.at_ms, done: event.kind === "promoted", text: event.text }));
  const show = (chart, series) => chart.draw(times, series, marks, from, to);
  const colour = (index) => index % 8;
  const nodes = status.nodes.map((node, index) => ({ node, index }));
  const followers = nodes.filter(({ index }) => shown.some((point) => point.nodes[index]?.lag_bytes != null));

  show(charts.routes, REASONS.filter(([key]) => shown.some((point) => point.routes[key]))
    .map(([key, name, colour]) => ({ name, colour, values: rate(shown, (point) => point.routes[key] ?? 0) }))
    .filter((series) => series.values.some((value) => value > 0.5)));
  const latency = (side, part) => shown.map((point) => point.latency[side][part]);
  show(charts.latency, [
    { name: "standby p50", colour: 1, values: latency(1, "p50") }, { name: "standby p99", colour: 1, dash: true, values: latency(1, "p99") },
    { name: "primary p50", colour: 0, values: latency(0, "p50") }, { name: "primary p99", colour: 0, dash: true, values: latency(0, "p99") },
  ]);
  show(charts.lagMs, followers.map(({ node, index }) => ({ name: node.name, colour: colour(index), values: shown.map((point) => point.nodes[index]?.lag_ms) })));
  show(charts.lagBytes, followers.map(({ node, index }) => ({ name: node.name, colour: colour(index), values: shown.map((point) => point.nodes[index]?.lag_bytes) })));
  show(charts.waits, [
    { name: "stale reads prevented", colour: 2, values: rate(shown, (point) => point.stale_reads_prevented) },
    { name: "waits for a standby", colour: 5, values: rate(shown, (point) => point.waits) },
  ]);
  show(charts.pools, [
    ...nodes.map(({ node, index }) => ({ name: node.name, colour: colour(index), values: mean(shown, (point) => point.nodes[index]?.pool.active) })),
    { name: "waiting", colour: 4, dash: true, values: mean(shown, (point) => point.nodes.reduce((sum, node) => sum + node.pool.waiting, 0)) },
  ]);
}

function tile(name, figure, unit, more) {
  const card = html("div", "tile"), value = html("b", "", figure);
  if (unit) value.append(html("small", "", unit));
  card.append(html("span", "", name), value, html("em", "", more));
  return card;
}

function tiles() {
  const point = points.at(-1);
  if (!point) return;
  const standby = recent((one) => total(one, "standby.")), primary = recent((one) => total(one, "primary."));
  const share = standby + primary > 0 ? `${Math.round((100 * standby) / (standby + primary))}` : "–";
  const latest = (side, part) => points.slice(-4).reduce((found, one) => one.latency[side][part] ?? found, null);
  const waits = recent((one) => one.waits), waited = recent((one) => one.wait_seconds);
  const [p95, unit] = ms(latest(1, "p95") ?? latest(0, "p95")).split(" ");
  const pools = status.nodes.reduce((sum, node) => sum + node.pool.active, 0);
  const open = status.nodes.reduce((sum, node) => sum + node.pool.active + node.pool.idle, 0);
  const pinned = status.pinned.sessions ? `, ${count(status.pinned.sessions)} pinned` : "";
  $("tiles").replaceChildren(
    tile("Statements", count(standby + primary), "/s", `${count(primary)} on the primary`),
    tile("Served by standbys", share, share === "–" ? "" : "%", "of the last 5 s"),
    tile("Latency p95", p95, unit ?? "", `primary p95 ${ms(latest(0, "p95"))}`),
    tile("Stale reads prevented", count(point.stale_reads_prevented), "", `${count(recent((one) => one.stale_reads_prevented))}/s now`),
    tile("Waits for a standby", count(waits), "/s", waits > 0 ? `${ms((1000 * waited) / waits)} on average` : `${count(point.waits)} so far`),
    tile("Clients", count(point.clients), "", `using ${count(pools)} of ${count(open)} connections${pinned}`),
  );
}

/** The rows of the table, by node: they stay, so that a button keeps its focus and its click. */
const rows = new Map();

function row(name) {
  let found = rows.get(name);
  if (!found) {
    found = html("tr");
    for (let cell = 0; cell < 9; cell++) found.append(html("td"));
    found.lastChild.append(drainButton(name));
    rows.set(name, found);
    $("nodes").append(found);
  }
  return found.cells;
}

function nodes() {
  for (const [name, gone] of rows) {
    if (!status.nodes.some((node) => node.name === name)) { gone.remove(); rows.delete(name); }
  }
  status.nodes.forEach((node, index) => {
    const word = node.state === "up" ? node.drain?.state ?? "up" : node.state;
    const state = html("span", `pill ${{ up: "good", down: "bad" }[word] ?? "warn"}`, word);
    if (node.drain?.connections > 0) state.title = `${node.drain.connections} connections are left`;
    const standby = node.role === "standby";
    const contents = [
      [node.name, html("small", "", `${node.host}:${node.port}${node.zone ? `, ${node.zone}` : ""}`)],
      [node.role ?? "–"], [state], [String(node.timeline ?? "–")], [node.position ?? "–"],
      [standby ? `${bytes(node.lag_bytes)} · ${ms(node.lag_ms)}` : "–"],
      [`${node.pool.active} / ${node.pool.idle} / ${node.pool.waiting}`],
      [count(recent((point) => point.nodes[index]?.statements ?? 0))],
    ];
    const cells = row(node.name);
    contents.forEach((content, cell) => cells[cell].replaceChildren(...content));
  });
}

function standing() {
  const failover = status.failover;
  const phase = $("phase");
  phase.textContent = failover ? failover.phase : "off";
  phase.className = `pill ${failover ? (failover.phase === "steady" ? "good" : "warn") : ""}`;
  const pairs = failover
    ? [["Primary", failover.primary ?? "none"], ["Epoch", failover.epoch], ["Mode", failover.mode], ["Durability", failover.durability],
      ["Decides", failover.leads ? "this proxy" : "another proxy"], ["Why", failover.why || "nothing to do"],
      ...failover.quarantine.map(([node, why]) => [`Quarantine`, `${node}: ${why}`])]
    : [["Primary", status.primary ?? "none"]];
  pairs.push(...status.troubles.map(({ node, kind, text }) => ["Wrong", `${node} (${kind}): ${text}`]));
  $("standing").replaceChildren(...pairs.flatMap(([name, text]) => [html("dt", "", name), html("dd", "", String(text))]));
}

function verdict(kind, head, text) {
  $("verdict").className = `verdict ${kind}`;
  // Unchanged text is left alone, so that screen readers do not repeat it.
  for (const [id, words] of [["verdict-head", head], ["verdict-text", text]]) if ($(id).textContent !== words) $(id).textContent = words;
  document.title = kind === "good" ? "Causeway" : `${kind === "bad" ? "✖" : "!"} ${head} · Causeway`;
}

function judge() {
  const failover = status.failover;
  const doing = failover && failover.phase !== "steady" ? `Causeway is at work: ${failover.phase}. ${failover.why}` : failover?.why ?? "";
  const off = status.nodes.filter((node) => node.state !== "up");
  const leader = status.nodes.find((node) => node.name === status.primary);
  if (!leader) return verdict("bad", "No primary: statements that need one are held", doing);
  if (off.length > 0) {
    const list = off.map((node) => `${node.name} is ${node.state === "barred" ? "kept away from clients" : node.state}`).join(", ");
    return verdict("warn", `${leader.name} leads; ${list}`, doing);
  }
  if (failover && failover.phase !== "steady") return verdict("warn", `${leader.name} leads; failover is busy`, doing);
  if (status.paused) {
    const whom = status.paused.all ? "All clients are" : `Clients of ${status.paused.databases.join(", ")} are`;
    return verdict("warn", `${whom} paused`, "Their transactions wait until RESUME on the console.");
  }
  const standbys = status.nodes.filter((node) => node.role === "standby" && node.timeline === leader.timeline);
  const serving = standbys.filter((node) => !node.drain).length;
  const drained = standbys.filter((node) => node.drain).map((node) => ` ${node.name} is ${node.drain.state}.`).join("");
  return verdict("good", "All is well", `${leader.name} leads on timeline ${leader.timeline}; ${serving} of ${status.nodes.length - 1} standbys follow and serve reads.${drained}`);
}

function timeline() {
  $("no-events").hidden = events.length > 0;
  $("events").replaceChildren(...events.slice().reverse().map((event) => {
    const item = html("li", KIND[event.kind] ?? ""), when = html("time", "", clock(event.at_ms));
    when.dateTime = new Date(event.at_ms).toISOString();
    item.append(when, html("b", "", event.kind.replaceAll("_", " ")), html("p", "", event.text));
    if (event.after_ms !== null || event.by) {
      const after = event.after_ms === null ? "" : `after ${(event.after_ms / 1000).toFixed(1)} s`;
      item.append(html("small", "", [after, event.by && `by ${event.by}`].filter(Boolean).join(", ")));
    }
    return item;
  }));
}

function show(next) {
  status = next;
  $("version").textContent = `${status.version}${status.failover ? ` · epoch ${status.failover.epoch}` : ""}`;
  for (const part of [judge, tiles, nodes, standing, draw]) part();
  setStatus(status);
  topology($("topology"), status);
}

function live(kind, text) {
  $("live").className = `pill ${kind}`;
  $("live").textContent = text;
}

const feed = new EventSource("/api/events");
feed.addEventListener("access", (event) => setAccess(event.data));
feed.addEventListener("past", (event) => {
  const past = JSON.parse(event.data);
  points = past.points;
  events = past.status.events;
  live("good", "live");
  timeline();
  show(past.status);
});
feed.addEventListener("now", (event) => {
  const { status: next, point } = JSON.parse(event.data);
  points.push(point);
  if (points.length > KEPT) points.shift();
  const fresh = next.events.filter((one) => !events.some((known) => known.number === one.number));
  events.push(...fresh);
  events = events.slice(-200);
  if (fresh.length > 0) timeline();
  show(next);
});
feed.addEventListener("error", () => {
  live("bad", "disconnected");
  verdict("bad", "No connection to this proxy", "What is shown below is old. The page connects again by itself.");
  // A refusal ends the browser's own attempts.
  if (feed.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
});

const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
const theme = () => { document.documentElement.dataset.theme = chosen ?? (system.matches ? "dark" : "light"); };
system.addEventListener("change", theme);
$("theme").addEventListener("click", () => { chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; theme(); });
theme();

for (const button of document.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => {
    span = Number(button.dataset.span);
    for (const other of document.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", String(other === button));
    draw();
  });
}
new ResizeObserver(() => status && topology($("topology"), status)).observe($("topology"));
