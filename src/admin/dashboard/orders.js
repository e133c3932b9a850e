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
};

let status = null, access = "closed", asked = "switchover", busy = false;

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
}

function ask(kind) {
  asked = kind;
  const words = WORDS[kind];
  $("order-title").textContent = words.title;
  $("order-text").textContent = words.text;
  const best = new Option("the best standby", "");
  const standbys = status.nodes.filter((node) => node.name !== status.primary && node.state === "up");
  $("order-to").replaceChildren(best, ...standbys.map((node) => new Option(node.name, node.name)));
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
  const to = $("order-to").value;
  const headers = access === "secret" ? { Authorization: `Bearer ${$("order-secret").value}` } : {};
  busy = true;
  ready();
  buttons();
  result("", "Under way…");
  try {
    const query = to ? `?to=${encodeURIComponent(to)}` : "";
    const answer = await fetch(`/api/${asked}${query}`, { method: "POST", headers });
    const { done, text, stall_ms: stall } = await answer.json();
    if (done) {
      result("good", stall >= 1 ? `Done. Statements were held for ${Math.round(stall)} ms.` : "Done.");
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
$("order-cancel").addEventListener("click", () => $("order").close());
$("order-accept").addEventListener("change", ready);
$("order-go").addEventListener("click", give);
