"use strict";
// Columns as runner/report/page/columns.py packs them, and what can be asked of a side.

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function column(kept) {
  const n = kept.n, planes = await inflated(kept.data), out = new Int32Array(n);
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const value = planes[i] | (planes[n + i] << 8) | (planes[2 * n + i] << 16) | (planes[3 * n + i] << 24);
    out[i] = kept.steps ? (sum = (sum + value) | 0) : value;
  }
  return out;
}

const KIB = 1024;
const CORES = ["", "AIC", "AIV", "MIX"];

function bytesText(bytes) {
  if (Math.abs(bytes) < KIB) return `${Math.round(bytes)} B`;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    bytes /= KIB;
    if (Math.abs(bytes) < 1023.95 || unit === "TiB") return `${bytes.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} ${unit}`;
  }
}

function timeText(us) {
  const abs = Math.abs(us), two = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  if (!abs) return "0 us";
  if (abs >= 1e6) return `${(us / 1e6).toLocaleString("en", two)} s`;
  if (abs >= 1e3) return `${(us / 1e3).toLocaleString("en", two)} ms`;
  return `${us.toLocaleString("en", two)} us`;
}

const numberText = (n) => n.toLocaleString("en");

class Side {
  constructor(given, number) {
    Object.assign(this, given);
    this.number = number;
    this.label = `${given.name}, ${given.strategy}`;
  }

  async open() {
    this.col = {};
    for (const [name, kept] of Object.entries(this.columns)) this.col[name] = await column(kept);
    this.columns = null;
    const numbers = (start) => Object.keys(this.col).filter((name) => new RegExp(`^${start}number\\d+$`).test(name)).map((name) => this.col[name]);
    this.numbers = numbers("");
    this.tensorNumbers = numbers("tensor_");
    this.hasTimes = "submit" in this.col;
    if (!this.num) return;
    const waits = this.col.waits;
    this.waitStart = new Int32Array(this.num + 1);
    for (let i = 0; i < this.num; i++) this.waitStart[i + 1] = this.waitStart[i] + waits[i];
    this.openTensors();
    this.scopeColor = this.scopes.map((scope) => this.kinds[scope.kind]);
    this.inRing = [[], [], [], []];
    for (let i = 0; i < this.num; i++) if (this.col.size[i] && this.col.offset[i] >= 0) this.inRing[this.ring(i)].push(i);
    this.length = this.hasTimes ? this.longest() : 0;
    this.onChain = new Set((this.chain || []).map((row) => row[0]));
  }

  // Tensors by block: those of submission i are tensorStart[i] to tensorStart[i + 1].
  openTensors() {
    const count = this.col.tensors || new Int32Array(this.num);
    this.tensorStart = new Int32Array(this.num + 1);
    for (let i = 0; i < this.num; i++) this.tensorStart[i + 1] = this.tensorStart[i] + count[i];
    this.tensorBlock = new Int32Array(this.tensorStart[this.num]);
    for (let i = 0; i < this.num; i++) this.tensorBlock.fill(i, this.tensorStart[i], this.tensorStart[i + 1]);
    this.writtenColor = (this.written || []).map((scope) => this.kinds[scope.kind]);
  }

  longest() {
    let most = 1;
    for (let i = 0; i < this.num; i++) most = Math.max(most, this.col.submit[i] + this.col.wait[i] + this.col.run[i]);
    return most;
  }

  ring(i) { return this.scopes[this.col.scope[i]].ring; }
  bytes(i) { return this.col.size[i] * KIB; }
  first(i) { return i + this.col.first[i]; }
  last(i) { return i + this.col.last[i]; }
  end(i) { return i + this.col.end[i]; }
  gone(i) { return i + this.col.gone[i]; }
  pin(i) { return this.col.pin[i] ? i + this.col.pin[i] - 1 : -1; }
  behind(i) { return this.col.behind[i] ? i - this.col.behind[i] : -1; }
  start(i) { return this.col.submit[i] + this.col.wait[i]; }
  finish(i) { return this.start(i) + this.col.run[i]; }
  freed(i) { return this.col.submit[i] + this.col.freed[i]; }
  color(i) { return this.scopeColor[this.col.scope[i]]; }
  waits(i) { return Array.from(this.col.wait_for.subarray(this.waitStart[i], this.waitStart[i + 1]), (step) => i - step); }
  scopeName(k) { return this.scopes[k].name || this.name; }

  title(i) {
    let k = 0;
    const numbers = this.numbers;
    return this.templates[this.col.name[i]].replace(/#/g, () => numbers[k++][i]);
  }

  isShared(i) { return this.tensorStart[i + 1] - this.tensorStart[i] > 1; }
  tensorBytes(t) { return this.col.tensor_size[t] * KIB; }
  tensorFirst(t) { return this.tensorBlock[t] + this.col.tensor_first[t]; }
  tensorLast(t) { return this.tensorFirst(t) + this.col.tensor_last[t]; }
  tensorUntil(t) { return this.finish(this.tensorLast(t)) + this.col.tensor_until[t]; }
  tensorColor(t) { return this.writtenColor[this.col.tensor_scope[t]]; }
  tensorScope(t) { return this.written[this.col.tensor_scope[t]].name || this.name; }

  tensorTitle(t) {
    let k = 0;
    const numbers = this.tensorNumbers;
    return this.tensor_templates[this.col.tensor_name[t]].replace(/#/g, () => numbers[k++][t]);
  }

  // Tensors of the same block that have bytes of t next (step 1) or had them last before (-1), nearest first.
  neighbours(t, step) {
    const at = (s) => (step > 0 ? this.tensorFirst(s) : -this.tensorLast(s)), { tensor_offset: offset, tensor_size: size } = this.col;
    const block = this.tensorBlock[t], since = step > 0 ? this.tensorLast(t) : -this.tensorFirst(t), found = [];
    const others = [];
    for (let s = this.tensorStart[block]; s < this.tensorStart[block + 1]; s++) {
      if (s !== t && at(s) > since && offset[s] < offset[t] + size[t] && offset[t] < offset[s] + size[s]) others.push(s);
    }
    let free = [[offset[t], offset[t] + size[t]]]; // bytes that nobody before has taken
    for (const s of others.sort((a, b) => at(a) - at(b))) {
      const from = offset[s], to = from + size[s], rest = free.flatMap(([a, b]) => [[a, Math.min(b, from)], [Math.max(a, to), b]].filter(([c, d]) => c < d));
      const sum = (ranges) => ranges.reduce((total, [a, b]) => total + b - a, 0);
      if (sum(rest) < sum(free)) found.push(s);
      free = rest;
      if (!free.length) break;
    }
    return found;
  }

  place(mark) {
    if (mark === undefined || mark < 0) return null;
    const [file, line] = this.marks[mark];
    return { file, line, text: `${this.files[file].name}:${line}` };
  }

  // Why a block stays: what ends its own life, and what of the ring's order keeps it longer.
  pinned(i) {
    const pin = this.pin(i), behind = this.behind(i);
    const own = pin < 0 ? `scope ${this.scopeName(this.col.scope[i])}, open until submission ${numberText(this.end(i))}` : `its last user, ${this.title(pin)}`;
    return behind < 0 ? own : `${own}; then the older block of ${this.title(behind)}`;
  }
}
