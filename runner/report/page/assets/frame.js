// The frame: tabs, details, search, colours of the page, and plots that one can move in.

const page = { sides: [], differences: null, tabs: [], drawn: [], inside: [], selected: null };
window.page = page; // for tests, and for whoever asks more of the data

function make(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.flat().filter((one) => one !== null && one !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);
const colorOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function addTab(id, title, fill) {
  const panel = make("section", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, hidden: true });
  const button = make("button", { role: "tab", type: "button", id: `tab-${id}`, "aria-controls": panel.id, "aria-selected": "false", tabindex: "-1", onclick: () => openTab(id) }, title);
  page.tabs.push({ id, panel, button, fill, isFilled: false });
  byId("tabs").append(button);
  byId("panels").append(panel);
}

function openTab(id) {
  for (const tab of page.tabs) {
    const isIt = tab.id === id;
    tab.button.setAttribute("aria-selected", isIt);
    tab.button.tabIndex = isIt ? 0 : -1;
    tab.panel.hidden = !isIt;
    if (isIt && !tab.isFilled) {
      tab.isFilled = true;
      fillSides(tab);
    }
  }
  page.tab = id;
  redraw();
}

// A panel has one column for each side, but for what is said of both together.
function fillSides(tab) {
  if (tab.fill.length > 1) return tab.fill(tab.panel, null);
  const columns = make("div", { class: page.sides.length > 1 ? "sides two" : "sides" });
  tab.panel.append(columns);
  for (const side of page.sides) {
    const holder = make("div", { class: "side" }, page.sides.length > 1 ? make("h2", {}, `${"AB"[side.number]}: ${side.label}`) : null);
    columns.append(holder);
    holder.append(...tab.fill(side));
  }
}

const plots = [];
let isWaiting = false;
function redraw() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    for (const plot of plots) plot.draw();
  });
}

// --- what is selected -------------------------------------------------------------------------------------------------

function select(side, kind, index) {
  page.selected = { side, kind, index };
  const details = byId("details");
  details.replaceChildren(...(kind === "block" ? blockDetails(side, index) : kind === "tensor" ? tensorDetails(side, index) : kind === "scope" ? scopeDetails(side, index) : boxDetails(side, index)));
  redraw();
  for (const one of document.querySelectorAll(".graph .picked")) one.classList.remove("picked");
  if (kind === "box") for (const one of document.querySelectorAll(`.graph [data-box="${side.number}-${index}"]`)) one.classList.add("picked");
}

function list(rows) {
  return make("dl", {}, rows.filter((row) => row[1] !== null && row[1] !== undefined && row[1] !== "").flatMap(([term, told]) => [make("dt", {}, term), make("dd", {}, told)]));
}

function placeLink(side, mark) {
  const place = side.place(mark);
  return place && make("button", { class: "link mono", type: "button", onclick: () => showSource(side, place) }, place.text);
}

function blockLink(side, i) {
  return make("button", { class: "link", type: "button", onclick: () => { select(side, "block", i); showOnRings(side, i); } }, side.title(i));
}

function scopeLink(side, k) {
  return make("button", { class: "link", type: "button", onclick: () => select(side, "scope", k) }, side.scopeName(k));
}

function blockDetails(side, i) {
  const c = side.col, waits = side.waits(i), chain = (side.chain || []).find((row) => row[0] === i);
  const shown = waits.slice(0, 6).map((wait) => [blockLink(side, wait), make("br")]);
  return [
    make("h2", {}, side.title(i)),
    list([
      ["submission", numberText(i)],
      ["op", c.op[i] < 0 ? "alloc, no kernel" : `${side.ops[c.op[i]]} (${CORES[c.core[i]]}${c.parts[i] > 1 ? `, ${numberText(c.parts[i])} blocks` : ""})`],
      ["block", c.size[i] ? `${bytesText(side.bytes(i))} on ring ${side.ring(i)}${c.offset[i] < 0 ? ", not placed: the run ended before" : `, offset ${bytesText(c.offset[i] * KIB)}`}` : "no bytes"],
      ["tensors", links(range(side.tensorStart[i], side.tensorStart[i + 1]), (t) => tensorLink(side, t), 8)],
      ["scope", scopeLink(side, c.scope[i])],
      ["first use", c.size[i] ? blockLink(side, side.first(i)) : null],
      ["last use", c.size[i] ? blockLink(side, side.last(i)) : null],
      ["pinned by", c.size[i] ? side.pinned(i) : null],
      ["submitted", side.hasTimes ? timeText(c.submit[i] / 10) : null],
      ["ran", side.hasTimes && c.op[i] >= 0 ? `${timeText(side.start(i) / 10)} to ${timeText(side.finish(i) / 10)}` : null],
      ["critical", chain ? `on the critical path; waited ${timeText(chain[3])} for ${GATES[chain[1]]}` : null],
      ["waits for", waits.length ? make("span", {}, ...shown.flat(), waits.length > 6 ? `and ${numberText(waits.length - 6)} more` : "") : null],
      ["written at", placeLink(side, c.mark[i])],
    ]),
    make("p", {}, make("button", { type: "button", onclick: () => showOnRings(side, i) }, "Show on the rings")),
  ];
}

function tensorLink(side, t) {
  return make("button", { class: "link", type: "button", onclick: () => { select(side, "tensor", t); showTensor(side, t); } }, side.tensorTitle(t));
}

// A list of links that names a few, and counts the rest.
function links(items, link, most = 6) {
  if (!items.length) return null;
  return make("span", {}, ...items.slice(0, most).flatMap((item) => [link(item), make("br")]), items.length > most ? `and ${numberText(items.length - most)} more` : "");
}

function tensorDetails(side, t) {
  const block = side.tensorBlock[t], c = side.col, link = (s) => tensorLink(side, s), next = side.neighbours(t, 1);
  const taken = next.length ? `, before ${side.tensorTitle(next[0])} takes its bytes` : "";
  return [
    make("h2", {}, side.tensorTitle(t)),
    list([
      ["tensor", `${bytesText(side.tensorBytes(t))} on ring ${side.ring(block)}`],
      ["in block", make("span", {}, blockLink(side, block), ` at ${bytesText(c.tensor_offset[t] * KIB)} of ${bytesText(side.bytes(block))}`)],
      ["scope", `${side.tensorScope(t)}, as written`],
      ["first use", blockLink(side, side.tensorFirst(t))],
      ["last use", blockLink(side, side.tensorLast(t))],
      ["pinned by", `its last user, ${side.title(side.tensorLast(t))}${taken}; its block by ${side.pinned(block)}`],
      ["used", side.hasTimes ? `${timeText(side.start(side.tensorFirst(t)) / 10)} to ${timeText(side.tensorUntil(t) / 10)}` : null],
      ["takes from", links(side.neighbours(t, -1), link)],
      ["gives to", links(next, link)],
      ["written at", placeLink(side, c.tensor_mark[t])],
    ]),
    make("p", {}, make("button", { type: "button", onclick: () => showTensor(side, t) }, "Show on the rings")),
  ];
}

function scopeDetails(side, k) {
  const scope = side.scopes[k];
  return [
    make("h2", {}, side.scopeName(k)),
    list([
      ["ring", `${scope.ring} (${scope.mode})`],
      ["open", `submissions ${numberText(scope.opens)} to ${numberText(scope.closes)}`],
      ["time", "from" in scope ? `${timeText(scope.from / 10)} to ${timeText(scope.to / 10)}` : null],
      ["tasks", numberText(scope.tasks)],
      ["own bytes", bytesText(scope.bytes)],
      ["with inner", bytesText(scope.all)],
      ["peak", bytesText(scope.peak)],
      ["inside", scope.parent < 0 ? null : scopeLink(side, scope.parent)],
      ["written at", placeLink(side, scope.mark)],
    ]),
    make("p", {}, make("button", { type: "button", onclick: () => showRange(side, scope.opens, scope.closes) }, "Show on the rings")),
  ];
}

// --- search -----------------------------------------------------------------------------------------------------------

const MOST_HITS = 40;

function find(text) {
  const wanted = text.toLowerCase(), hits = [];
  let more = 0;
  const add = (hit) => (hits.length < MOST_HITS ? hits.push(hit) : more++);
  for (const side of page.sides) {
    if (!side.num) continue;
    const where = page.sides.length > 1 ? `${"AB"[side.number]} ` : "";
    side.scopes.forEach((scope, k) => side.scopeName(k).toLowerCase().includes(wanted) && add({ text: `${where}scope ${side.scopeName(k)}`, go: () => { select(side, "scope", k); showRange(side, scope.opens, scope.closes); } }));
    for (let i = 0; i < side.num; i++) {
      if (side.title(i).toLowerCase().includes(wanted)) add({ text: `${where}${side.title(i)}`, go: () => { select(side, "block", i); showOnRings(side, i); } });
    }
    for (let t = 0; t < side.tensorBlock.length; t++) {
      if (side.tensorTitle(t).toLowerCase().includes(wanted)) add({ text: `${where}tensor ${side.tensorTitle(t)} (${side.title(side.tensorFirst(t))})`, go: () => { select(side, "tensor", t); showTensor(side, t); } });
    }
  }
  return { hits, more };
}

function startSearch() {
  const input = byId("search"), box = byId("hits");
  let timer = 0, found = [], at = -1;
  const close = () => { box.hidden = true; input.setAttribute("aria-expanded", "false"); };
  const mark = (next) => {
    at = next;
    [...box.children].forEach((item, k) => item.setAttribute("aria-selected", k === at));
    if (box.children[at]) box.children[at].scrollIntoView({ block: "nearest" });
  };
  const go = (k) => { if (found[k]) { close(); found[k].go(); } };
  const run = () => {
    const text = input.value.trim();
    if (!text) return close();
    const { hits, more } = find(text);
    found = hits;
    box.replaceChildren(...hits.map((hit, k) => make("li", { role: "option", onmousedown: (e) => { e.preventDefault(); go(k); } }, hit.text)));
    if (!hits.length) box.append(make("li", { class: "none" }, "nothing is called so"));
    if (more) box.append(make("li", { class: "none" }, `and ${numberText(more)} more`));
    box.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark(hits.length ? 0 : -1);
  };
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(run, 150); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (e) => {
    if (e.key === "Enter") { clearTimeout(timer); if (box.hidden) run(); go(Math.max(at, 0)); }
    else if (e.key === "ArrowDown") mark(Math.min(at + 1, found.length - 1));
    else if (e.key === "ArrowUp") mark(Math.max(at - 1, 0));
    else if (e.key === "Escape") { close(); input.blur(); }
    else return;
    e.preventDefault();
  });
}

// --- keyboard and theme -----------------------------------------------------------------------------------------------

function startFrame() {
  startSearch();
  const button = byId("theme"), root = document.documentElement;
  const wear = (theme) => { root.dataset.theme = theme; button.textContent = theme === "dark" ? "Light" : "Dark"; redraw(); };
  wear(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  button.addEventListener("click", () => wear(root.dataset.theme === "dark" ? "light" : "dark"));
  addEventListener("resize", redraw);
  addEventListener("keydown", (e) => {
    if (e.target.matches("input, select") || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "/") { e.preventDefault(); byId("search").focus(); }
    const tab = page.tabs[Number(e.key) - 1];
    if (tab) openTab(tab.id);
  });
  byId("tabs").addEventListener("keydown", (e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!step) return;
    const at = page.tabs.findIndex((tab) => tab.id === page.tab), next = page.tabs[(at + step + page.tabs.length) % page.tabs.length];
    openTab(next.id);
    next.button.focus();
  });
}

function tip(text, event) {
  const box = byId("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  box.style.left = `${Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8)}px`;
  box.style.top = `${Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 8)}px`;
}

// --- plots ------------------------------------------------------------------------------------------------------------

// A canvas whose x axis one can move in; `group` holds the range that plots of one side share: {x0, x1, most}.
class Plot {
  constructor(group, height, label, paint, hit) {
    Object.assign(this, { group, height, paint, hit });
    this.canvas = make("canvas", { tabindex: "0", role: "img", "aria-label": label });
    this.canvas.style.height = `${height}px`;
    plots.push(this);
    this.listen();
  }

  x(value) { return ((value - this.group.x0) / (this.group.x1 - this.group.x0)) * this.width; }
  value(px) { return this.group.x0 + (px / this.width) * (this.group.x1 - this.group.x0); }

  draw() {
    const { canvas } = this;
    if (!canvas.offsetWidth) return;
    this.width = canvas.offsetWidth;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    this.paint(context, this);
  }

  range(x0, x1) {
    const { group } = this, least = group.most / 1e6, width = Math.min(Math.max(x1 - x0, least), group.most);
    group.x0 = Math.min(Math.max(x0, 0), group.most - width);
    group.x1 = group.x0 + width;
    redraw();
  }

  zoom(factor, at) {
    const { x0, x1 } = this.group;
    this.range(at - (at - x0) * factor, at + (x1 - at) * factor);
  }

  listen() {
    const { canvas, group } = this;
    let from = null, moved = false;
    canvas.addEventListener("wheel", (e) => { e.preventDefault(); this.zoom(e.deltaY > 0 ? 1.25 : 0.8, this.value(e.offsetX)); }, { passive: false });
    canvas.addEventListener("pointerdown", (e) => { from = { x: e.offsetX, x0: group.x0, x1: group.x1 }; moved = false; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", (e) => {
      if (from && Math.abs(e.offsetX - from.x) > 3) moved = true;
      if (from && moved) {
        const step = ((from.x - e.offsetX) / this.width) * (from.x1 - from.x0);
        return this.range(from.x0 + step, from.x1 + step);
      }
      const found = this.hit(this.value(e.offsetX), e.offsetY, this);
      canvas.style.cursor = found ? "pointer" : "grab";
      tip(found && found.text, e);
    });
    canvas.addEventListener("pointerup", (e) => {
      const found = !moved && this.hit(this.value(e.offsetX), e.offsetY, this);
      from = null;
      if (found && found.go) found.go();
    });
    canvas.addEventListener("pointerleave", () => tip(null));
    canvas.addEventListener("dblclick", () => this.range(0, group.most));
    canvas.addEventListener("keydown", (e) => {
      const width = group.x1 - group.x0, middle = (group.x0 + group.x1) / 2;
      if (e.key === "ArrowLeft") this.range(group.x0 - width / 8, group.x1 - width / 8);
      else if (e.key === "ArrowRight") this.range(group.x0 + width / 8, group.x1 + width / 8);
      else if (e.key === "+" || e.key === "=") this.zoom(0.7, middle);
      else if (e.key === "-") this.zoom(1.4, middle);
      else if (e.key === "Home") this.range(0, group.most);
      else return;
      e.preventDefault();
    });
  }
}

// Rectangles by the hundred thousand: what falls on the same pixels as the one before is drawn once.
class Rects {
  constructor(context, width, height) { Object.assign(this, { context, width, height, px: NaN, py: 0, pw: 0, ph: 0, color: "" }); }

  add(x, y, w, h, color, least = 1) {
    if (x > this.width || x + w < 0 || y > this.height || y + h < 0) return false;
    const left = Math.max(x, -2), right = Math.min(x + w, this.width + 2);
    const px = Math.round(left * 2) / 2, pw = Math.max(Math.round((right - left) * 2) / 2, least), py = Math.round(y * 2) / 2, ph = Math.max(Math.round(h * 2) / 2, 0.5);
    if (px !== this.px || py !== this.py || pw !== this.pw || ph !== this.ph || color !== this.color) {
      if (color !== this.color) this.context.fillStyle = color;
      this.px = px; this.py = py; this.pw = pw; this.ph = ph; this.color = color;
      this.context.fillRect(px, py, pw > 3 ? pw - 0.5 : pw, ph > 3 ? ph - 0.5 : ph);
    }
    return true;
  }
}

function ticks(context, plot, text, y, least = 0) {
  const { x0, x1 } = plot.group, wanted = (x1 - x0) / Math.max(plot.width / 110, 1), power = 10 ** Math.floor(Math.log10(wanted));
  const step = Math.max([1, 2, 5, 10].map((k) => k * power).find((one) => one >= wanted), least);
  context.fillStyle = colorOf("--soft");
  context.font = "11px system-ui, sans-serif";
  context.strokeStyle = colorOf("--line");
  for (let value = Math.ceil(x0 / step) * step; value <= x1; value += step) {
    const x = plot.x(value);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x, y + 4);
    context.stroke();
    context.fillText(text(value), x + 3, y + 11);
  }
}
