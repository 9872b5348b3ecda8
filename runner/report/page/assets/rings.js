// Rings over submissions or over time: every block a rectangle from its submission to its release.

const ringGroups = []; // per side the range of submissions, of time, and which of them is shown

function ringsPanel(side) {
  if (!side.num) return [make("p", {}, "The file of this plan has no blocks.")];
  const group = { x0: 0, x1: side.num, most: side.num, byTime: false };
  ringGroups[side.number] = group;
  const buttons = [["over submissions", false], ["over time", true]].map(([text, byTime]) => make("button", { type: "button", "aria-pressed": String(!byTime), disabled: byTime && !side.hasTimes, onclick: () => showBy(side, byTime) }, text));
  group.buttons = buttons;
  const rings = [0, 1, 2, 3].filter((ring) => side.inRing[ring].length);
  const height = Math.max(90, Math.floor((innerHeight - 260) / Math.max(rings.length, 1)) - 24);
  page.drawn[side.number] = page.drawn[side.number] || {};
  page.inside[side.number] = page.inside[side.number] || {};
  const out = [make("div", { class: "bar" }, ...buttons, make("span", { class: "hint" }, "wheel or +/\u2212 zooms, drag or arrows move, Home shows all"))];
  for (const ring of rings) {
    const most = largest(side.inRing[ring], (i) => side.col.offset[i] + side.col.size[i]);
    const capacity = side.capacity[ring] / KIB, top = capacity <= 2 * most ? capacity : most;
    const inside = side.inRing[ring].reduce((sum, i) => sum + (side.isShared(i) ? side.tensorStart[i + 1] - side.tensorStart[i] : 0), 0);
    const blocks = `${numberText(side.inRing[ring].length)} block${side.inRing[ring].length === 1 ? "" : "s"}${inside ? `, with ${numberText(inside)} tensors side by side or in turn` : ""}`;
    const told = `Ring ${ring}: ${blocks}, peak ${bytesText(side.peak[ring])} of ${bytesText(side.capacity[ring])}.`;
    const plot = new Plot(group, height, `${told} Each rectangle is a block from its submission to its release; the tables of scopes and needs tell the same in numbers.`, (context, p) => paintRing(side, ring, top, context, p), (x, y, p) => hitRing(side, ring, top, x, y, p));
    out.push(make("div", { class: "plot" }, make("div", { class: "cap" }, make("span", {}, make("b", {}, `ring ${ring}`), ` up to ${bytesText(top * KIB)}`), make("span", {}, told.replace(/^[^:]*: /, ""))), plot.canvas));
  }
  out.push(legend(side));
  return out;
}

function largest(of, value) {
  let most = 0;
  for (const one of of) most = Math.max(most, value(one));
  return most;
}

function range(from, to) { return Array.from({ length: to - from }, (_, k) => from + k); }

function legend(side) {
  const used = new Set();
  for (const ring of side.inRing) for (const i of ring) used.add(side.col.scope[i]);
  const kinds = new Set([...used].map((k) => side.scopes[k].kind)), inside = new Set();
  for (const ring of side.inRing) for (const i of ring) if (side.isShared(i)) for (let t = side.tensorStart[i]; t < side.tensorStart[i + 1]; t++) inside.add(side.col.tensor_scope[t]);
  for (const k of inside) kinds.add(side.written[k].kind);
  return make("div", { class: "legend", "aria-label": "Colours of scopes" }, [...kinds].slice(0, 40).map((kind) => {
    const patch = make("i");
    patch.style.background = side.kinds[kind];
    return make("span", {}, patch, kind || side.name);
  }));
}

function life(side, i, byTime) {
  return byTime ? [side.col.submit[i], side.freed(i), side.freed(i)] : [i, side.end(i), side.gone(i)];
}

function offsetOf(side, i, byTime) { return side.col.offset[i] + (byTime ? side.col.timed_offset[i] : 0); }

// When a tensor's bytes are its own: from its first to its last use.
function use(side, t, byTime) {
  return byTime ? [side.start(side.tensorFirst(t)), side.tensorUntil(t)] : [side.tensorFirst(t), side.tensorLast(t) + 1];
}

// Where a block, or a tensor in it, lies in the picture: x, y, width, height.
function boxOf(side, i, t, [begin, end], top, plot) {
  const height = plot.height - 14, size = t < 0 ? side.col.size[i] : side.col.tensor_size[t];
  const offset = offsetOf(side, i, plot.group.byTime) + (t < 0 ? 0 : side.col.tensor_offset[t]);
  return [plot.x(begin), height - ((offset + size) / top) * height, plot.x(end) - plot.x(begin), (size / top) * height];
}

function paintRing(side, ring, top, context, plot) {
  const { byTime } = plot.group, height = plot.height - 14, names = [];
  let drawn = 0, inside = 0;
  const paint = (alpha, each) => {
    const rects = new Rects(context, plot.width, height);
    context.globalAlpha = alpha;
    for (const i of side.inRing[ring]) each(i, rects, life(side, i, byTime));
  };
  const named = (box, color, name) => names.length < MOST_NAMES && box[2] > 24 && box[3] > 12 && box[0] < plot.width && box[0] + box[2] > 0 && names.push([box, color, name]);
  paint(0.22, (i, rects, [, end, gone]) => gone > end && rects.add(...boxOf(side, i, -1, [end, gone], top, plot), side.color(i)));
  paint(0.3, (i, rects, life) => { if (side.isShared(i)) drawn += rects.add(...boxOf(side, i, -1, life, top, plot), side.color(i)); });
  paint(0.9, (i, rects, life) => {
    if (side.isShared(i)) return;
    const box = boxOf(side, i, -1, life, top, plot);
    drawn += rects.add(...box, side.color(i));
    named(box, side.color(i), () => (side.tensorStart[i] < side.tensorStart[i + 1] ? side.tensorTitle(side.tensorStart[i]) : side.title(i)));
  });
  paint(0.9, (i, rects) => {
    if (!side.isShared(i)) return;
    for (let t = side.tensorStart[i]; t < side.tensorStart[i + 1]; t++) {
      const box = boxOf(side, i, t, use(side, t, byTime), top, plot);
      inside += rects.add(...box, side.tensorColor(t));
      named(box, side.tensorColor(t), () => side.tensorTitle(t));
    }
  });
  context.globalAlpha = 1;
  page.drawn[side.number][ring] = drawn;
  page.inside[side.number][ring] = inside;
  paintNames(context, plot, names);
  const picked = page.selected;
  const t = picked && picked.side === side && picked.kind === "tensor" ? picked.index : -1;
  const i = t >= 0 ? side.tensorBlock[t] : picked && picked.side === side && picked.kind === "block" ? picked.index : -1;
  if (i >= 0 && side.col.size[i] && side.ring(i) === ring) {
    const [x, y, w, h] = boxOf(side, i, t, t >= 0 ? use(side, t, byTime) : life(side, i, byTime), top, plot);
    context.strokeStyle = colorOf("--fg");
    context.lineWidth = 2;
    context.strokeRect(x, y, Math.max(w, 2), Math.max(h, 2));
  }
  if (picked && picked.side === side && picked.kind === "scope") {
    const scope = side.scopes[picked.index], [a, b] = byTime ? [scope.from, scope.to] : [scope.opens, scope.closes];
    context.fillStyle = colorOf("--mark");
    context.globalAlpha = 0.12;
    context.fillRect(plot.x(a), 0, Math.max(plot.x(b) - plot.x(a), 2), height);
    context.globalAlpha = 1;
  }
  ticks(context, plot, (value) => (byTime ? timeText(value / 10) : numberText(Math.round(value))), height, byTime ? 0 : 1);
}

const MOST_NAMES = 400;

// Names in the rectangles that have room for them.
function paintNames(context, plot, names) {
  context.font = "11px system-ui, sans-serif";
  for (const [[x, y, w, h], color, name] of names) {
    const text = name(), left = Math.max(x, 0), room = Math.min(x + w, plot.width) - left - 6;
    if (context.measureText(text).width > room) continue;
    const [r, g, b] = [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16));
    context.fillStyle = 0.3 * r + 0.59 * g + 0.11 * b > 130 ? "#000" : "#fff";
    context.fillText(text, left + 3, Math.max(y, 0) + Math.min(h / 2 + 4, 14));
  }
}

function hitTensor(side, i, x, at, slack, byTime) {
  if (!side.isShared(i)) return -1;
  let found = -1;
  for (let t = side.tensorStart[i]; t < side.tensorStart[i + 1]; t++) {
    const offset = offsetOf(side, i, byTime) + side.col.tensor_offset[t];
    if (offset > at || offset + side.col.tensor_size[t] <= at) continue;
    const [begin, end] = use(side, t, byTime);
    if (begin <= x && end > x) return t;
    if (begin <= x + slack && end >= x - slack) found = t;
  }
  return found;
}

function hitRing(side, ring, top, x, y, plot) {
  const { byTime } = plot.group, height = plot.height - 14, at = ((height - y) / height) * top, slack = (plot.group.x1 - plot.group.x0) / plot.width;
  let found = -1;
  for (const i of side.inRing[ring]) {
    const offset = offsetOf(side, i, byTime);
    if (offset > at || offset + side.col.size[i] <= at) continue;
    const [begin, , gone] = life(side, i, byTime);
    if (begin <= x + slack && gone >= x - slack) found = i;
  }
  if (found < 0) return null;
  const i = found, t = hitTensor(side, i, x, at, slack, byTime);
  if (t >= 0) {
    const next = side.neighbours(t, 1), after = next.length ? `then its bytes are of ${next.slice(0, 3).map((s) => side.tensorTitle(s)).join(", ")}${next.length > 3 ? ", ..." : ""}` : `then nobody takes its bytes; its block is pinned by ${side.pinned(i)}`;
    const text = `${side.tensorTitle(t)}, in the block of ${side.title(i)}\n${bytesText(side.tensorBytes(t))}, scope ${side.tensorScope(t)}\nfirst use ${side.title(side.tensorFirst(t))}, last use ${side.title(side.tensorLast(t))}\npinned by its last use; ${after}`;
    return { index: i, tensor: t, text, go: () => select(side, "tensor", t) };
  }
  const text = `${side.title(i)}\n${bytesText(side.bytes(i))}, scope ${side.scopeName(side.col.scope[i])}\nfirst use ${side.title(side.first(i))}, last use ${side.title(side.last(i))}\npinned by ${side.pinned(i)}`;
  return { index: i, text, go: () => select(side, "block", i) };
}

function showBy(side, byTime) {
  const group = ringGroups[side.number];
  group.byTime = byTime;
  group.most = byTime ? side.length : side.num;
  group.x0 = 0;
  group.x1 = group.most;
  group.buttons.forEach((button, k) => button.setAttribute("aria-pressed", String((k === 1) === byTime)));
  redraw();
}

function showRange(side, first, last) {
  openTab("rings");
  const group = ringGroups[side.number];
  if (!group) return;
  if (group.byTime) showBy(side, false);
  const more = Math.max((last - first) * 0.2, 4);
  group.x0 = Math.max(first - more, 0);
  group.x1 = Math.min(last + more, group.most);
  redraw();
}

function showTensor(side, t) { showRange(side, side.tensorFirst(t), side.tensorLast(t) + 1); }

function showOnRings(side, i) { showRange(side, i, side.col.size[i] ? side.end(i) : i + 1); }
