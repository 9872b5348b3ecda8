// What is told in numbers: the summary, scopes, what is needed, the certificate, files' texts, and what differs.

function cells(...texts) {
  return texts.map((text) => (text && typeof text === "object" && "n" in text ? make("td", { class: "n" }, text.n) : make("td", {}, text ?? "")));
}

function tableOf(heads, rows) {
  return make("table", {}, make("thead", {}, make("tr", {}, heads.map((text) => make("th", { class: text.endsWith(">") ? "n" : null, scope: "col" }, text.replace(/>$/, ""))))), make("tbody", {}, rows));
}

function summaryPanel(side) {
  const { report } = side, figure = (value, told) => make("div", { class: "figure" }, make("b", {}, value), make("span", {}, told));
  const rings = report.rings, sum = (name) => rings.reduce((total, ring) => total + (ring[name] || 0), 0);
  const figures = [figure(bytesText(sum("peak_bytes")), "held at most"), figure(bytesText(report.safe_total_bytes), "safe capacity of all rings")];
  if (report.peak_live_bytes !== null && report.peak_live_bytes !== undefined) figures.push(figure(bytesText(report.peak_live_bytes), "live at once: no plan of this order takes less"));
  if (report.makespan_us !== null && report.makespan_us !== undefined) figures.push(figure(timeText(report.makespan_us), "makespan"), figure(timeText(report.stall_us), "submission stalled"));
  figures.push(figure(numberText(report.num_tasks), "tasks"));
  if (side.graph && side.graph.alike.length) figures.push(figure(numberText(side.graph.alike.length), "layers"));
  const out = [make("p", {}, side.verdict), make("div", { class: "figures" }, figures)];
  if (side.refused) out.push(make("p", { class: "bad" }, side.refused));
  for (const note of side.notes.slice(0, 12)) out.push(make("p", { class: "note" }, note));
  out.push(make("h3", {}, "Rings"), tableOf(["ring", "held at most>", "of>", "", "blocks>", "tasks>"], rings.map((ring) => {
    const gauge = make("span", { class: "gauge", role: "img", "aria-label": `${Math.round((100 * ring.peak_bytes) / Math.max(ring.capacity_bytes, 1))} percent` }, make("i"));
    gauge.firstChild.style.width = `${Math.min(100, (100 * ring.peak_bytes) / Math.max(ring.capacity_bytes, 1))}%`;
    gauge.style.color = (side.colours || ["#4e79a7", "#59a14f", "#f28e2b", "#b07aa1"])[ring.ring];
    return make("tr", {}, cells(`ring ${ring.ring}`, { n: bytesText(ring.peak_bytes) }, { n: bytesText(ring.capacity_bytes) }, gauge, { n: numberText(ring.num_blocks) }, { n: numberText(ring.num_tasks) }));
  })));
  out.push(make("p", { class: "mono" }, `PTO2_RING_HEAP=${rings.map((ring) => ring.safe_bytes).join(",")}`));
  if (side.routing) out.push(make("p", {}, `Planned with routing ${side.routing}${side.assumed ? `; times assume ${side.assumed}` : ""}.`));
  if (side.certificate) out.push(...certificate(side.certificate));
  return out;
}

function certificate(found) {
  const text = found.objective === "makespan" ? timeText : bytesText;
  const rows = [["objective", found.objective], ["value", text(found.value)], ["lower bound", `${text(found.lower_bound)} (${found.bound})`], ["gap", found.proved_optimal ? "none: proved optimal" : text(found.gap)], ["found by", found.found_by]];
  if (found.time) rows.push(["time", timeText(found.time.makespan_us)], ["fastest known", timeText(found.time.fastest_us)], ["critical path", `${timeText(found.time.critical_path_us)}: no run is shorter`]);
  return [make("h3", {}, "Certificate"), tableOf(["what", "is"], rows.map((row) => make("tr", {}, cells(...row))))];
}

function needsPanel(side) {
  const rows = side.report.rings.map((ring) => make("tr", {}, cells(String(ring.ring), { n: bytesText(ring.capacity_bytes) }, { n: bytesText(ring.peak_bytes) }, { n: bytesText(ring.least_bytes) }, { n: bytesText(ring.robust_bytes) }, { n: bytesText(ring.safe_bytes) }, { n: `${numberText(ring.peak_slots)} of ${numberText(ring.window)}` }, { n: numberText(ring.least_window) }, { n: `${numberText(ring.pool_bound)} of ${numberText(ring.pool)}` }, ring.peak_scope || "")));
  const out = [make("h3", {}, "What each ring takes and needs"), tableOf(["ring", "capacity>", "peak>", "least>", "robust>", "safe>", "slots>", "least window>", "pool>", "fullest scope"], rows), make("p", {}, "least: with these trip counts; robust: with any; safe: what is known to be enough in every run.")];
  if (side.report.memory) {
    const memory = side.report.memory, kinds = ["heap", "window", "pool", "total"];
    out.push(make("h3", {}, "Device memory"), tableOf(["", ...kinds.map((kind) => `${kind}>`)], [["as planned", memory], ["with the smallest sizes", memory.smallest]].filter((row) => row[1]).map(([name, sizes]) => make("tr", {}, cells(name, ...kinds.map((kind) => ({ n: bytesText(sizes[`${kind}_bytes`]) })))))));
  }
  if (side.certificate) out.push(...certificate(side.certificate));
  if (side.run) out.push(make("h3", {}, "The recorded run"), tableOf(["what", "time>"], Object.entries(side.run).filter(([name, value]) => name.endsWith("_us") && value !== null).map(([name, value]) => make("tr", {}, cells(name.slice(0, -3).replaceAll("_", " "), { n: timeText(value) })))));
  return out;
}

// --- scopes -----------------------------------------------------------------------------------------------------------

function scopesPanel(side) {
  if (!side.num) return [tableOf(["ring", "scope", "count>", "largest>", "all>", "tasks>"], (side.rows || []).map((row) => make("tr", {}, cells(String(row.ring), row.name || side.name, { n: numberText(row.count) }, { n: bytesText(row.bytes) }, { n: bytesText(row.total_bytes) }, { n: numberText(row.num_tasks) }))))];
  const children = side.scopes.map(() => []);
  side.scopes.forEach((scope, k) => scope.parent >= 0 && children[scope.parent].push(k));
  const body = make("tbody"), most = Math.max(...side.scopes.map((scope) => scope.peak), 1);
  const likeness = (k) => `${side.scopes[k].name.replace(/\d+/g, "#")} ${side.scopes[k].ring} ${side.scopes[k].all} ${side.scopes[k].peak} ${side.scopes[k].tasks}`;
  const grouped = (list) => { const found = new Map(); for (const k of list) { const key = likeness(k); if (!found.has(key)) found.set(key, []); found.get(key).push(k); } return [...found.values()]; };

  function row(k, alike, depth) {
    const scope = side.scopes[k], state = { open: false, rows: [] };
    const isFold = alike.length > 1, inside = isFold ? alike : children[k];
    const toggle = make("button", { type: "button", class: "toggle", "aria-expanded": "false", "aria-label": isFold ? `unfold ${alike.length} scopes` : "show scopes inside", hidden: !inside.length }, "\u25b8");
    const patch = swatch(side.kinds[scope.kind]);
    const name = make("td", {}, toggle, patch, side.scopeName(k).split(".").slice(-2).join("."), isFold ? make("b", {}, ` x${alike.length}`) : "");
    name.style.paddingLeft = `${depth * 18}px`;
    const gauge = make("span", { class: "gauge" }, make("i"));
    gauge.firstChild.style.width = `${(100 * scope.peak) / most}%`;
    gauge.style.color = side.colours[scope.ring];
    const line = make("tr", { class: "pick", onclick: () => select(side, "scope", k) }, name, cells(String(scope.ring), scope.mode, { n: numberText(scope.tasks) }, { n: bytesText(scope.bytes) }, { n: bytesText(scope.all) }, { n: bytesText(scope.peak) }, gauge));
    const close = () => { for (const one of state.rows) { one.close(); one.line.remove(); } state.rows = []; state.open = false; toggle.textContent = "\u25b8"; toggle.setAttribute("aria-expanded", "false"); };
    const open = () => {
      state.open = true;
      toggle.textContent = "\u25be";
      toggle.setAttribute("aria-expanded", "true");
      state.rows = isFold ? alike.map((one) => row(one, [one], depth + 1)) : grouped(children[k]).map((group) => row(group[0], group, depth + 1));
      line.after(...state.rows.map((one) => one.line));
    };
    toggle.addEventListener("click", (e) => { e.stopPropagation(); if (state.open) close(); else open(); });
    return { line, open, close, state };
  }

  for (const group of grouped(side.scopes.map((_, k) => k).filter((k) => side.scopes[k].parent < 0))) {
    const top = row(group[0], group, 0);
    body.append(top.line);
    top.open();
  }
  return [make("p", {}, "Own: what a scope allocates itself. All: with the scopes inside. Peak: the most that lives in it at once."), make("table", {}, make("thead", {}, make("tr", {}, ["scope", "ring", "mode", "tasks>", "own>", "all>", "peak>", ""].map((text) => make("th", { class: text.endsWith(">") ? "n" : null }, text.replace(/>$/, ""))))), body)];
}

// --- texts ------------------------------------------------------------------------------------------------------------

function sourcePanel(side) {
  if (!(side.files || []).some((file) => file.text !== null)) return [make("p", {}, "There is no text of a graph: this is a recorded program, or a file of a plan.")];
  const box = make("pre", { class: "source", tabindex: "0", "aria-label": "Text of the graph" });
  const choice = make("select", { "aria-label": "File" }, side.files.map((file, k) => make("option", { value: k }, file.name)));
  side.showText = (file, line) => {
    choice.value = file;
    const text = side.files[file].text;
    box.replaceChildren(...(text === null ? ["This file could not be read."] : text.split("\n").map((one, k) => make("span", { "data-line": k + 1, class: k + 1 === line ? "here" : null }, one || " "))));
    const here = box.querySelector(".here");
    if (here) here.scrollIntoView({ block: "center" });
  };
  choice.addEventListener("change", () => side.showText(Number(choice.value), 0));
  side.showText(0, 0);
  return [make("div", { class: "bar" }, choice), box];
}

function showSource(side, place) {
  openTab("source");
  if (side.showText) side.showText(place.file, place.line);
}

// --- differences ------------------------------------------------------------------------------------------------------

function differencesPanel(panel, _) {
  const found = page.differences, same = (a, b) => (a === b ? null : "different");
  panel.append(make("p", {}, `A is ${page.sides[0].label}, B is ${page.sides[1].label}. What differs stands out.`));
  const rows = found.rings.flatMap((ring) => ["safe_bytes", "robust_bytes", "least_bytes", "num_blocks", "num_tasks"].map((name) => {
    const [a, b] = ring[name], text = name.endsWith("bytes") ? bytesText : numberText;
    return make("tr", { class: same(a, b) }, cells(String(ring.ring), name.replace("_bytes", "").replace("num_", ""), { n: text(a) }, { n: text(b) }, { n: a === b ? "" : `${b > a ? "+" : "\u2212"}${text(Math.abs(b - a))}` }));
  }));
  const total = found.safe_total_bytes;
  rows.push(make("tr", { class: same(...total) }, cells("all", "safe", { n: bytesText(total[0]) }, { n: bytesText(total[1]) }, { n: bytesText(total[1] - total[0]) })));
  const times = page.sides.map((side) => side.report.makespan_us);
  if (times.every((time) => time !== null && time !== undefined)) rows.push(make("tr", { class: same(...times) }, cells("", "makespan", { n: timeText(times[0]) }, { n: timeText(times[1]) }, { n: timeText(times[1] - times[0]) })));
  panel.append(tableOf(["ring", "figure", "A>", "B>", "B \u2212 A>"], rows), make("h3", {}, `Scopes that differ: ${found.scopes.length}; the same: ${found.num_same_scopes}`));
  const pair = (row, name, text) => [row.left, row.right].map((one) => ({ n: one ? text(one[name]) : "\u2014" }));
  panel.append(tableOf(["ring", "scope", "A>", "B>", "bytes A>", "bytes B>", "tasks A>", "tasks B>"], found.scopes.map((row) => make("tr", {}, cells(String(row.ring), row.name || "(all)", ...pair(row, "count", numberText), ...pair(row, "bytes", bytesText), ...pair(row, "num_tasks", numberText))))));
}
