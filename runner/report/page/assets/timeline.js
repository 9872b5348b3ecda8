// When tasks ran on which kind of core, where the submitting thread stood still, and the chain that the run's length came from.

const GATES = { data: "what it reads", core: "a free core", submission: "its submission", heap: "room on a ring" };
const LANE_CORES = [1, 2, 3];

function timelinePanel(side) {
  if (!side.hasTimes) return [make("p", {}, side.num ? "There are no times: the run did not end." : "The file of this plan has no tasks.")];
  const group = { x0: 0, x1: side.length, most: side.length }, out = [];
  side.lanes = {};
  const stalled = side.stalls.reduce((sum, [from, to]) => sum + to - from, 0) / 10;
  out.push(make("p", {}, `The run takes ${timeText(side.report.makespan_us ?? side.length / 10)}; the submitting thread stands still for ${timeText(stalled)} of it. Assumed: ${side.assumed}.`));
  const submits = new Plot(group, 40, `The submitting thread: ${numberText(side.stalls.length)} waits, ${timeText(stalled)} in all.`, (context, plot) => paintSubmits(side, context, plot), (x) => hitStall(side, x));
  out.push(captioned("submitting thread", make("span", {}, swatch(colorOf("--soft")), "submits ", swatch("#d62728"), "waits for room ", swatch("#f0a030"), "waits for a value"), submits));
  for (const core of LANE_CORES) {
    const lanes = packLanes(side, core);
    if (!lanes.tasks.length) continue;
    side.lanes[core] = lanes;
    const height = Math.min(Math.max(lanes.num * 12, 50), Math.max(90, Math.floor((innerHeight - 400) / 2)));
    const told = `${numberText(lanes.tasks.length)} tasks, at most ${numberText(lanes.num)} at once`;
    const plot = new Plot(group, height, `Tasks on ${CORES[core]}: ${told}. Those of the critical path are outlined and listed below.`, (context, p) => paintLanes(side, lanes, context, p), (x, y, p) => hitLane(side, lanes, x, y, p));
    out.push(captioned(CORES[core], told, plot));
  }
  out.push(...chainTable(side));
  return out;
}

function swatch(color) {
  const patch = make("i");
  patch.style.cssText = `display:inline-block;width:10px;height:10px;margin:0 3px 0 8px;border-radius:2px;background:${color}`;
  return patch;
}

function captioned(name, told, plot) {
  return make("div", { class: "plot" }, make("div", { class: "cap" }, make("b", {}, name), make("span", {}, told)), plot.canvas);
}

// Tasks in as few rows as they need, in the order in which they begin.
function packLanes(side, core) {
  const tasks = [], lane = new Int32Array(side.num).fill(-1), free = [];
  for (let i = 0; i < side.num; i++) if (side.col.core[i] === core) tasks.push(i);
  tasks.sort((a, b) => side.start(a) - side.start(b) || a - b);
  for (const i of tasks) {
    let at = free.findIndex((end) => end <= side.start(i));
    if (at < 0) at = free.push(0) - 1;
    free[at] = side.finish(i);
    lane[i] = at;
  }
  tasks.sort((a, b) => lane[a] - lane[b] || side.start(a) - side.start(b)); // neighbours in a row fall on the same pixels
  return { tasks, lane, num: free.length };
}

function paintLanes(side, lanes, context, plot) {
  const height = plot.height - 14, row = height / lanes.num, rects = new Rects(context, plot.width, height), chain = [];
  context.globalAlpha = 0.9;
  let drawn = 0;
  for (const i of lanes.tasks) {
    drawn += rects.add(plot.x(side.start(i)), lanes.lane[i] * row, plot.x(side.finish(i)) - plot.x(side.start(i)), row, side.color(i), 0.5);
    if (side.onChain.has(i)) chain.push(i);
  }
  plot.drawn = drawn;
  context.globalAlpha = 1;
  context.strokeStyle = colorOf("--bad");
  context.lineWidth = 1.5;
  for (const i of chain) context.strokeRect(plot.x(side.start(i)), lanes.lane[i] * row, Math.max(plot.x(side.finish(i)) - plot.x(side.start(i)), 1), Math.max(row, 2));
  const picked = page.selected;
  if (picked && picked.side === side && picked.kind === "block" && lanes.lane[picked.index] >= 0) {
    const i = picked.index;
    context.strokeStyle = colorOf("--fg");
    context.lineWidth = 2.5;
    context.strokeRect(plot.x(side.start(i)), lanes.lane[i] * row, Math.max(plot.x(side.finish(i)) - plot.x(side.start(i)), 2), Math.max(row, 3));
  }
  ticks(context, plot, (value) => timeText(value / 10), height);
}

function hitLane(side, lanes, x, y, plot) {
  const row = (plot.height - 14) / lanes.num, at = Math.floor(y / row), slack = ((plot.group.x1 - plot.group.x0) / plot.width) * 1.5;
  const found = lanes.tasks.find((i) => lanes.lane[i] === at && side.start(i) <= x + slack && side.finish(i) >= x - slack);
  if (found === undefined) return null;
  return { index: found, text: `${side.title(found)}\n${timeText(side.start(found) / 10)} to ${timeText(side.finish(found) / 10)}${side.onChain.has(found) ? "\non the critical path" : ""}`, go: () => select(side, "block", found) };
}

function paintSubmits(side, context, plot) {
  const rects = new Rects(context, plot.width, 26);
  let last = 0;
  for (let i = 0; i < side.num; i++) last = Math.max(last, side.col.submit[i]);
  rects.add(plot.x(0), 4, plot.x(last) - plot.x(0), 20, colorOf("--line"));
  for (const [from, to, , forRoom] of side.stalls) rects.add(plot.x(from), 2, plot.x(to) - plot.x(from), 24, forRoom ? "#d62728" : "#f0a030");
  ticks(context, plot, (value) => timeText(value / 10), 26);
}

function hitStall(side, x) {
  const found = side.stalls.find(([from, to]) => from <= x && to >= x);
  if (!found) return null;
  const [from, to, next, forRoom] = found;
  return { text: `waits ${timeText((to - from) / 10)} ${forRoom ? "for room for" : "for a value, before"} ${side.title(next)}`, go: () => select(side, "block", next) };
}

function chainTable(side) {
  const sums = new Map();
  let kernels = 0;
  for (const [task, gate, , us] of side.chain) { sums.set(gate, (sums.get(gate) || 0) + us); kernels += side.col.run[task] / 10; }
  const parts = [`kernels ${timeText(kernels)}`, ...[...sums].filter((row) => row[1] > 0.005).map(([gate, us]) => `${timeText(us)} for ${GATES[gate]}`)];
  const rows = side.chain.slice(0, 400).map(([task, gate, , us]) => make("tr", { class: "pick", onclick: () => select(side, "block", task) }, make("td", {}, blockLink(side, task)), make("td", { class: "n" }, timeText(side.start(task) / 10)), make("td", { class: "n" }, timeText(side.col.run[task] / 10)), make("td", {}, GATES[gate]), make("td", { class: "n" }, timeText(us))));
  return [
    make("h3", {}, `Critical path: ${numberText(side.chain.length)} tasks`),
    make("p", {}, `What the run's length came from: ${parts.join(", ")}.`),
    make("details", {}, make("summary", {}, side.chain.length > 400 ? "Its first 400 tasks" : "Its tasks"), make("table", {}, make("tr", {}, ...["task", "begins", "takes", "waited for", "so long"].map((text) => make("th", {}, text))), ...rows)),
  ];
}
