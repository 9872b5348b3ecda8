// The graph by layer: boxes that open to stages and tasks; layers that are alike are one box, whose badge unfolds it.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...inside) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...inside);
  return made;
}

function graphPanel(side) {
  if (!side.graph) return [make("p", {}, side.num ? "A recorded program has no graph." : "The file of this plan has no graph.")];
  const view = new GraphView(side);
  side.graphView = view;
  const folded = side.graph.boxes.filter((box) => box.alike.length).map((box) => side.graph.boxes.indexOf(box));
  const all = make("button", { type: "button", onclick: () => { view.unfolded = new Set(view.unfolded.size ? [] : folded); view.draw(); } }, "Unfold or fold all layers");
  return [make("div", { class: "bar" }, folded.length ? all : null, make("span", { class: "hint" }, "click selects a box, its + opens it; a badge unfolds layers that are alike; dotted lines lead to later layers")), view.holder];
}

class GraphView {
  constructor(side) {
    this.side = side;
    this.boxes = side.graph.boxes;
    this.children = new Map();
    this.boxes.forEach((box, k) => { const list = this.children.get(box.parent) || []; list.push(k); this.children.set(box.parent, list); });
    this.opened = new Set();
    this.unfolded = new Set();
    this.holder = make("div", { class: "graph", role: "group", "aria-label": `Graph of ${side.name}` });
    if ((this.children.get(-1) || []).length === 1 && this.canOpen((this.children.get(-1) || [])[0])) this.opened.add(this.children.get(-1)[0]);
    this.draw();
  }

  // A box that holds one box of its own name alone is that box.
  inside(k) {
    let found = this.children.get(k) || [];
    while (found.length === 1 && this.children.has(found[0])) found = this.children.get(found[0]);
    return found;
  }

  canOpen(k) { const found = this.inside(k); return found.length > 1 || (found.length === 1 && this.boxes[found[0]].key !== this.boxes[k].key); }

  // What is shown of a box: itself, its layers one by one, or a frame around what is inside.
  item(k) {
    const box = this.boxes[k];
    if (this.unfolded.has(k)) return box.alike.map((name) => ({ id: `layer:${name}`, k, layer: name, inside: [], lines: [shortName(name), `${numberText(box.tasks)} tasks`] }));
    const inside = this.opened.has(k) ? this.inside(k).flatMap((child) => this.item(child)) : [];
    return [{ id: `box:${k}`, k, inside, lines: this.lines(box) }];
  }

  lines(box) {
    const name = box.alike.length > 1 ? `${box.alike[0]}, ${box.alike[1]}${box.alike.length > 2 ? ` \u2026 ${box.alike[box.alike.length - 1]}` : ""}` : box.label;
    const lines = [shortName(name) + (box.trips > 1 ? ` x${numberText(box.trips)}` : "")];
    lines.push([box.tasks > 1 ? `${numberText(box.tasks)} tasks` : "", box.bytes ? bytesText(box.bytes) : ""].filter((text) => text).join(", "));
    for (const [ring, bytes] of box.allocs) lines.push(`+ ${bytesText(bytes)} alloc, ring ${ring}`);
    return lines.filter((text) => text);
  }

  draw() {
    const items = (this.children.get(-1) || []).flatMap((k) => this.item(k));
    items.sort((a, b) => this.order(a) - this.order(b));
    this.owner = new Map();
    const note = (item) => { if (item.layer) this.owner.set(`layer:${item.layer}`, item); else if (!item.inside.length) this.own(item.k, item); item.inside.forEach(note); };
    items.forEach(note);
    for (const k of this.unfolded) this.own(k, this.owner.get(`layer:${this.boxes[k].alike[0]}`));
    const edges = this.edges();
    if (!items.length) return this.holder.replaceChildren(make("p", {}, "The graph has no tasks."));
    const root = { inside: items };
    layout(root, edges);
    const picture = svg("svg", { width: root.w + 20, height: root.h + 20, viewBox: `-10 -10 ${root.w + 20} ${root.h + 20}` });
    picture.append(svg("defs", {}, svg("marker", { id: `tip${this.side.number}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,0 L8,4 L0,8", style: "fill:none" }))));
    const place = (item, x, y) => { item.ax = x + item.x; item.ay = y + item.y; item.inside.forEach((one) => place(one, item.ax, item.ay)); };
    root.inside.forEach((item) => place(item, 0, 0));
    root.inside.forEach((item) => this.paint(picture, item));
    for (const edge of edges.values()) this.paintEdge(picture, edge);
    this.holder.replaceChildren(picture);
  }

  order(item) {
    if (!item.layer) return this.boxes[item.k].first ?? item.k;
    return (this.side.graph.alike.find((layer) => layer.name === item.layer) || { first: item.k }).first;
  }

  own(k, item) { this.owner.set(k, item); for (const child of this.children.get(k) || []) this.own(child, item); }

  // What flows between what is shown; between layers that are shown whole, as they follow each other.
  edges() {
    const found = new Map();
    const add = (from, to, sizes, crosses) => {
      if (!from || !to || from === to) return;
      const key = `${from.id} ${to.id}`, edge = found.get(key) || { from, to, sizes: {}, crosses: true };
      Object.assign(edge.sizes, sizes);
      edge.crosses = edge.crosses && crosses;
      found.set(key, edge);
    };
    for (const [from, to, sizes, , crosses] of this.side.graph.edges) {
      const one = this.owner.get(from), other = this.owner.get(to);
      if (!(one && one.layer) && !(other && other.layer)) add(one, other, sizes, crosses);
    }
    for (const [from, to, sizes] of this.side.graph.layer_edges) {
      const [one, other] = [from, to].map((name) => this.owner.get(`layer:${name}`) || this.owner.get(this.topOf(name)));
      if ((one && one.layer) || (other && other.layer)) add(one, other, sizes, false);
    }
    return found;
  }

  topOf(name) { return this.boxes.findIndex((box) => box.depth === 0 && (box.key === name || box.alike.includes(name))); }

  paint(picture, item) {
    const box = this.boxes[item.k], side = this.side, isFrame = item.inside.length > 0;
    const group = svg("g", { class: "box", tabindex: "0", role: "button", "data-box": `${side.number}-${item.k}`, "aria-label": item.lines.join(", "), transform: `translate(${item.ax},${item.ay})` });
    const color = side.colours[box.ring];
    group.append(svg("rect", { width: item.w, height: item.h, rx: 6, style: `fill:${color};fill-opacity:${isFrame ? 0.06 : 0.2};stroke:${color}` }));
    item.lines.forEach((text, row) => { if (!isFrame || row === 0) { const line = svg("text", { x: 8, y: 16 + 14 * row, class: row ? "small" : "" }); line.textContent = text; group.append(line); } });
    const pick = () => (item.layer ? this.pickLayer(item) : select(side, "box", item.k));
    group.addEventListener("click", (e) => { e.stopPropagation(); pick(); });
    group.addEventListener("keydown", (e) => { if (e.key === "Enter") pick(); else if (e.key === " " && this.canOpen(item.k)) this.toggle(this.opened, item.k); else return; e.preventDefault(); e.stopPropagation(); });
    picture.append(group);
    let right = item.ax + item.w;
    const button = (text, told, act) => {
      const w = 9 + 7 * text.length;
      right -= w + 4;
      const badge = svg("g", { class: "badge", tabindex: "0", role: "button", "aria-label": told, transform: `translate(${right},${item.ay + 4})`, onclick: (e) => { e.stopPropagation(); act(); }, onkeydown: (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); act(); } } });
      badge.append(svg("rect", { width: w, height: 16, rx: 8 }));
      const label = svg("text", { x: 4.5, y: 12 });
      label.textContent = text;
      badge.append(label);
      picture.append(badge);
    };
    if (!item.layer && this.canOpen(item.k)) button(this.opened.has(item.k) ? "\u2212" : "+", this.opened.has(item.k) ? "close" : "open", () => this.toggle(this.opened, item.k));
    if (box.alike.length > 1) button(item.layer ? "fold" : `x${box.alike.length}`, item.layer ? "fold these layers" : `unfold ${box.alike.length} layers`, () => this.toggle(this.unfolded, item.k));
    item.inside.forEach((one) => this.paint(picture, one));
  }

  pickLayer(item) {
    const layer = this.side.graph.alike.find((one) => one.name === item.layer);
    select(this.side, "box", item.k);
    byId("details").prepend(make("p", {}, make("b", {}, item.layer), " ", make("button", { type: "button", onclick: () => showRange(this.side, layer.from, layer.to) }, "Show on the rings")));
  }

  toggle(set, k) {
    if (set.has(k)) set.delete(k);
    else { set.add(k); (set === this.opened ? this.unfolded : this.opened).delete(k); }
    this.draw();
  }

  paintEdge(picture, { from, to, sizes, crosses }) {
    const names = Object.keys(sizes), bytes = Object.values(sizes).reduce((a, b) => a + b, 0);
    const isUp = to.ay < from.ay + from.h;
    const [x1, y1, x2, y2] = isUp ? [from.ax + from.w, from.ay + from.h / 2, to.ax + to.w, to.ay + to.h / 2] : [from.ax + from.w / 2, from.ay + from.h, to.ax + to.w / 2, to.ay];
    const bend = isUp ? 40 + Math.abs(y2 - y1) / 8 : (y2 - y1) / 2;
    const d = isUp ? `M${x1},${y1} C${x1 + bend},${y1} ${x2 + bend},${y2} ${x2},${y2}` : `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend} ${x2},${y2}`;
    const path = svg("path", { d, class: isUp || crosses ? "up" : "", "marker-end": `url(#tip${this.side.number})` });
    const told = names.length ? `${bytesText(bytes)}: ${names.slice(0, 8).join(", ")}` : "order only";
    path.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: told }));
    picture.append(path);
    if (names.length) {
      const label = svg("text", { class: "small", x: isUp ? (x1 + x2) / 2 + bend * 0.75 : x1 + 0.7 * (x2 - x1) + 4, y: isUp ? (y1 + y2) / 2 + 3 : y1 + 0.7 * (y2 - y1) + 3 });
      label.textContent = bytesText(bytes);
      picture.append(label);
    }
  }
}

// Places what is inside a frame in rows: a box stands below all earlier ones from which something flows to it.
function layout(frame, edges) {
  const items = frame.inside, index = new Map(), rank = items.map(() => 0), rows = [];
  const note = (item, k) => { index.set(item, k); item.inside.forEach((one) => note(one, k)); };
  items.forEach((item, k) => { if (item.inside.length) layout(item, edges); else { item.w = Math.max(...item.lines.map((text, row) => text.length * (row ? 6.1 : 6.9) + 16), 60) + 56; item.h = 12 + 14 * item.lines.length; } note(item, k); });
  const steps = [...edges.values()].map(({ from, to }) => [index.get(from), index.get(to)]).filter(([a, b]) => a !== undefined && b !== undefined && a < b).sort((a, b) => a[1] - b[1] || a[0] - b[0]);
  for (const [a, b] of steps) rank[b] = Math.max(rank[b], rank[a] + 1);
  items.forEach((item, k) => (rows[rank[k]] = rows[rank[k]] || []).push(item));
  const gap = 26, lines = rows.filter((row) => row).flatMap((row) => cut(row, 5));
  const width = Math.max(...lines.map((row) => row.reduce((sum, item) => sum + item.w + gap, -gap)), 60);
  let y = frame.lines ? 26 : 0;
  for (const row of lines) {
    const used = row.reduce((sum, item) => sum + item.w + gap, -gap);
    let x = (width - used) / 2 + (frame.lines ? 12 : 0);
    for (const item of row) { item.x = x; item.y = y; x += item.w + gap; }
    y += Math.max(...row.map((item) => item.h)) + 34;
  }
  frame.w = width + (frame.lines ? 70 : 60);
  frame.h = y - 34 + (frame.lines ? 12 : 0);
}

function cut(row, most) {
  const found = [];
  for (let k = 0; k < row.length; k += most) found.push(row.slice(k, k + most));
  return found;
}

function boxDetails(side, k) {
  const box = side.graph.boxes[k];
  return [
    make("h2", {}, box.alike.length ? box.alike[0] : box.key),
    list([
      ["layers", box.alike.length ? `${box.alike.length} that are alike: ${box.alike.join(", ")}` : null],
      ["tasks", numberText(box.tasks)],
      ["trips", box.trips > 1 ? numberText(box.trips) : null],
      ["creates", bytesText(box.bytes)],
      ["allocs", box.allocs.map(([ring, bytes]) => `${bytesText(bytes)} on ring ${ring}`).join(", ")],
      ["first task", box.at >= 0 ? blockLink(side, box.at) : box.task],
      ["written at", placeLink(side, box.mark)],
    ]),
  ];
}
