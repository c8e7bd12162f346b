// Fills the page from what /readyz and /api tell. Text only: nothing that a server says becomes markup.
"use strict";

const place = (id) => document.getElementById(id);

const cell = (kind, value) => {
  const element = document.createElement(kind);
  element.textContent = value ?? "";
  if (typeof value === "number") element.className = "number";
  return element;
};

// Rows are arrays of texts and numbers, one for each column.
function fill(id, columns, rows) {
  const line = (kind, values) => {
    const row = document.createElement("tr");
    row.append(...values.map((value) => cell(kind, value)));
    return row;
  };
  place(id).replaceChildren(line("th", columns), ...rows.map((row) => line("td", row)));
}

const time = (text) => (text ? new Date(text).toLocaleString() : "");
const yes = (value) => (value ? "yes" : "no");

function showNodes({ nodes }) {
  const rows = nodes.map((node) => [
    node.node_id,
    `${node.host}:${node.port}`,
    node.group_id === 0 ? "coordinator" : "worker",
    yes(node.is_active),
    yes(node.should_have_shards),
    node.shard_groups,
    node.standbys.map((standby) => `${standby.host}:${standby.port}`).join(", "),
  ]);
  fill("nodes", ["id", "address", "role", "active", "takes shards", "shard groups", "standbys"], rows);
}

function showTables({ colocations }) {
  const rows = colocations.map((colocation) => [
    colocation.colocation_id,
    colocation.tables.map((table) => `${table.schema}.${table.name}`).join(", "),
    colocation.shard_groups.length,
    colocation.shard_groups.filter((group) => group.tenant !== null).length,
  ]);
  fill("tables", ["colocation", "tables", "shard groups", "tenants by themselves"], rows);
}

function showSize({ workers, requests }) {
  const open = requests.filter((request) => request.finished_at === null);
  const now = open.length > 0 ? open[open.length - 1] : null;
  const state = now === null ? "" : `: ${now.state} ${now.ready}/${now.wanted}, to ${now.workers} workers. ${now.detail}`;
  place("size").textContent = `${workers} workers${state}`;
  const rows = requests.map((request) => [
    request.id,
    request.workers,
    request.state,
    request.detail,
    time(request.created_at),
    time(request.finished_at),
  ]);
  fill("requests", ["id", "workers", "state", "detail", "asked for", "ended"], rows);
}

function showHealth(text, isWell) {
  place("health").textContent = text;
  place("health").className = isWell ? "good" : "bad";
}

async function look() {
  try {
    const ready = await fetch("readyz");
    showHealth(ready.ok ? "the coordinator answers" : (await ready.text()).trim(), ready.ok);
    const parts = [["api/nodes", showNodes], ["api/shards", showTables], ["api/cluster", showSize]];
    for (const [path, show] of parts) {
      const answer = await fetch(path);
      if (answer.ok) show(await answer.json());
    }
  } catch (error) {
    showHealth(`the proxy does not answer: ${error.message}`, false);
  }
  setTimeout(look, 2000);
}

look();
