// Orders to the proxy: what they do is said first, and they are given only after a confirmation.

const $ = (id) => document.getElementById(id);

const WORDS = {
  switchover: {
    title: "Switch over",
    text: "New transactions are held while running ones end; the primary is stopped cleanly and the new one takes over with everything. Nothing is lost, and clients see a short pause.",
    go: "Switch over",
  },
  failover: {
    title: "Fail over",
    text: "The primary is replaced now, without waiting for it. Use this when it is broken and automatic failover has not acted; otherwise switch over.",
    go: "Fail over",
  },
  drain: {
    title: "Drain",
    text: "The standby takes no new reads through this proxy; those that run there end by themselves, and its idle connections are closed. It is not promoted while it is drained. This lasts until it is undrained or this proxy restarts.",
    go: "Drain",
  },
  undrain: { title: "Undrain", text: "The standby takes reads again, and may be promoted.", go: "Undrain" },
  reload: {
    title: "Reload the configuration",
    text: "The configuration file is read again. A file with faults changes nothing, and its faults are shown here; keys that need a restart are named.",
    go: "Reload",
  },
};

/** Those that change who leads, and need the failover section. */
const LEADS = ["switchover", "failover"];

let status = null, access = "closed", asked = "switchover", about = "", busy = false;
/** By node: its button in the table. */
const drains = new Map();

export function setAccess(word) { access = word; buttons(); }
export function setStatus(next) { status = next; buttons(); }

function buttons() {
  const note = $("no-orders");
  let why = "";
  if (!status?.failover) why = "There is no failover section in the configuration: this proxy follows, and takes no orders.";
  else if (access === "closed") why = "Orders are taken from this machine only, as admin.secret is not configured.";
  $("switchover").disabled = $("failover-now").disabled = why !== "" || busy;
  note.hidden = why === "";
  note.textContent = why;
  const closed = access === "closed" || busy;
  $("reload").disabled = closed;
  for (const node of status?.nodes ?? []) {
    const button = drains.get(node.name);
    if (!button) continue;
    const text = node.drain ? "Undrain…" : "Drain…";
    if (button.textContent !== text) button.textContent = text;
    button.setAttribute("aria-label", `${text.slice(0, -1)} ${node.name}`);
    button.hidden = node.role !== "standby" && !node.drain;
    button.disabled = closed;
  }
}

/** The button that drains a standby, or undrains it. */
export function drainButton(name) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet small";
  button.dataset.drain = name;
  button.addEventListener("click", () => {
    const node = status.nodes.find((one) => one.name === name);
    ask(node?.drain ? "undrain" : "drain", name);
  });
  drains.set(name, button);
  return button;
}

function ask(kind, node = "") {
  asked = kind;
  about = node;
  const words = WORDS[kind];
  $("order-title").textContent = node ? `${words.title} ${node}` : words.title;
  $("order-text").textContent = words.text;
  const best = new Option("the best standby", "");
  const standbys = status.nodes.filter((node) => node.name !== status.primary && node.state === "up" && !node.drain);
  $("order-to").replaceChildren(best, ...standbys.map((node) => new Option(node.name, node.name)));
  $("order-to-row").hidden = !LEADS.includes(kind);
  $("order-secret-row").hidden = access !== "secret";
  $("order-accept-row").hidden = kind !== "failover";
  $("order-accept").checked = false;
  $("order-result").hidden = true;
  $("order-go").textContent = words.go;
  $("order-go").hidden = false;
  $("order-go").className = kind === "failover" ? "danger" : "";
  $("order-cancel").textContent = "Cancel";
  ready();
  $("order").showModal();
}

function ready() {
  $("order-go").disabled = busy || (asked === "failover" && !$("order-accept").checked);
}

function result(kind, text) {
  const place = $("order-result");
  place.className = `result ${kind}`;
  place.textContent = text;
  place.hidden = false;
}

async function give() {
  const to = LEADS.includes(asked) ? $("order-to").value : "";
  const headers = access === "secret" ? { Authorization: `Bearer ${$("order-secret").value}` } : {};
  busy = true;
  ready();
  buttons();
  result("", "Under way…");
  try {
    const query = to ? `?to=${encodeURIComponent(to)}` : about ? `?node=${encodeURIComponent(about)}` : "";
    const answer = await fetch(`/api/${asked}${query}`, { method: "POST", headers });
    const { done, text, stall_ms: stall } = await answer.json();
    if (done) {
      if (!LEADS.includes(asked)) result("good", `${text}.`);
      else result("good", stall >= 1 ? `Done. Statements were held for ${Math.round(stall)} ms.` : "Done.");
      $("order-go").hidden = true;
      $("order-cancel").textContent = "Close";
    } else result("bad", text);
  } catch (error) {
    result("bad", `No answer: ${error.message}`);
  }
  $("order-secret").value = "";
  busy = false;
  ready();
  buttons();
}

$("switchover").addEventListener("click", () => ask("switchover"));
$("failover-now").addEventListener("click", () => ask("failover"));
$("reload").addEventListener("click", () => ask("reload"));
$("order-cancel").addEventListener("click", () => $("order").close());
$("order-accept").addEventListener("change", ready);
$("order-go").addEventListener("click", give);
