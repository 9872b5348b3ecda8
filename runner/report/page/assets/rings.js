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
  const out = [make("div", { class: "bar" }, ...buttons, make("span", { class: "hint" }, "wheel or +/\u2212 zooms, drag or arrows move, Home shows all"))];
  for (const ring of rings) {
    const most = Math.max(...range(side.inRing[ring], (i) => side.col.offset[i] + side.col.size[i]));
    const capacity = side.capacity[ring] / KIB, top = capacity <= 2 * most ? capacity : most;
    const told = `Ring ${ring}: ${numberText(side.inRing[ring].length)} blocks, peak ${bytesText(side.peak[ring])} of ${bytesText(side.capacity[ring])}.`;
    const plot = new Plot(group, height, `${told} Each rectangle is a block from its submission to its release; the tables of scopes and needs tell the same in numbers.`, (context, p) => paintRing(side, ring, top, context, p), (x, y, p) => hitRing(side, ring, top, x, y, p));
    out.push(make("div", { class: "plot" }, make("div", { class: "cap" }, make("span", {}, make("b", {}, `ring ${ring}`), ` up to ${bytesText(top * KIB)}`), make("span", {}, told.replace(/^[^:]*: /, ""))), plot.canvas));
  }
  out.push(legend(side));
  return out;
}

function range(of, value) {
  let most = 0;
  for (const one of of) most = Math.max(most, value(one));
  return [most];
}

function legend(side) {
  const used = new Set();
  for (const ring of side.inRing) for (const i of ring) used.add(side.col.scope[i]);
  const kinds = new Set([...used].map((k) => side.scopes[k].kind));
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

function paintRing(side, ring, top, context, plot) {
  const { byTime } = plot.group, height = plot.height - 14, rects = new Rects(context, plot.width, height);
  let drawn = 0;
  for (const faint of [true, false]) {
    context.globalAlpha = faint ? 0.22 : 0.9;
    for (const i of side.inRing[ring]) {
      const [begin, end, gone] = life(side, i, byTime), y = height - ((offsetOf(side, i, byTime) + side.col.size[i]) / top) * height, h = (side.col.size[i] / top) * height;
      if (faint) { if (gone > end) rects.add(plot.x(end), y, plot.x(gone) - plot.x(end), h, side.color(i)); }
      else drawn += rects.add(plot.x(begin), y, plot.x(end) - plot.x(begin), h, side.color(i));
    }
  }
  context.globalAlpha = 1;
  page.drawn[side.number][ring] = drawn;
  const picked = page.selected;
  if (picked && picked.side === side && picked.kind === "block" && side.col.size[picked.index] && side.ring(picked.index) === ring) {
    const i = picked.index, [begin, end] = life(side, i, byTime);
    context.strokeStyle = colorOf("--fg");
    context.lineWidth = 2;
    context.strokeRect(plot.x(begin), height - ((offsetOf(side, i, byTime) + side.col.size[i]) / top) * height, Math.max(plot.x(end) - plot.x(begin), 2), Math.max((side.col.size[i] / top) * height, 2));
  }
  if (picked && picked.side === side && picked.kind === "scope") {
    const scope = side.scopes[picked.index], [a, b] = byTime ? [scope.from, scope.to] : [scope.opens, scope.closes];
    context.fillStyle = colorOf("--mark");
    context.globalAlpha = 0.12;
    context.fillRect(plot.x(a), 0, Math.max(plot.x(b) - plot.x(a), 2), height);
    context.globalAlpha = 1;
  }
  ticks(context, plot, (value) => (byTime ? timeText(value / 10) : numberText(Math.round(value))), height);
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
  const i = found;
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

function showOnRings(side, i) { showRange(side, i, side.col.size[i] ? side.end(i) : i + 1); }
