// flatmin.theory.two_valleys in the browser: the discrete chain at frozen y as a transfer operator (FrozenChain), and
// the rate equation that follows P_flat along the drift of y (freezing_point.follow), on fewer nodes.
const GAUSS = gauss(10);
const PANEL = 3.5, CUT = 8, SHIFT = 1 + 1e-9; // panels and kernel tails in kicks; shift of inverse iteration

/** LU factors of shift·1 − K on nodes [from, to) without one of them; no pivots are needed, the matrix is an M-matrix. */
class Factors {
  constructor({ n, K, band }, from, to, shift = SHIFT, without = -1) {
    this.kept = [];
    for (let i = from; i < to; i++) if (i !== without) this.kept.push(i);
    const m = this.m = this.kept.length, A = this.A = new Float64Array(m * m);
    this.band = band;
    for (let i = 0; i < m; i++) for (let j = Math.max(0, i - band); j <= Math.min(m - 1, i + band); j++) {
      A[i * m + j] = (i === j ? shift : 0) - K[this.kept[i] * n + this.kept[j]];
    }
    for (let k = 0; k < m; k++) for (let i = k + 1; i <= Math.min(m - 1, k + band); i++) {
      const factor = A[i * m + k] /= A[k * m + k];
      if (factor) for (let j = k + 1; j <= Math.min(m - 1, k + band); j++) A[i * m + j] -= factor * A[k * m + j];
    }
  }
  solve(b) {
    const { m, A, band } = this, x = Float64Array.from(b);
    for (let i = 0; i < m; i++) for (let j = Math.max(0, i - band); j < i; j++) x[i] -= A[i * m + j] * x[j];
    for (let i = m - 1; i >= 0; i--) {
      for (let j = i + 1; j <= Math.min(m - 1, i + band); j++) x[i] -= A[i * m + j] * x[j];
      x[i] /= A[i * m + i];
    }
    return x;
  }
  solveTransposed(b) {
    const { m, A, band } = this, x = Float64Array.from(b);
    for (let i = 0; i < m; i++) {
      for (let j = Math.max(0, i - band); j < i; j++) x[i] -= A[j * m + i] * x[j];
      x[i] /= A[i * m + i];
    }
    for (let i = m - 1; i >= 0; i--) for (let j = i + 1; j <= Math.min(m - 1, i + band); j++) x[i] -= A[j * m + i] * x[j];
    return x;
  }
}

/** The chain at one y: nodes x, the operator K on masses, exit rates, stationary law, slowest mode. */
class Chain {
  constructor(y, eta, Delta, P) {
    const width = { flat: widthFlat(y, P), sharp: widthSharp(y, P) }, floor = { flat: floorFlat(y, P), sharp: floorSharp(y, P) };
    const kick = {}, factor = {}, spread = {};
    for (const side of ["flat", "sharp"]) {
      factor[side] = 1 - 2 * eta / width[side];
      kick[side] = Math.sqrt(4 * eta * Delta / width[side]);
      spread[side] = kick[side] / Math.sqrt(1 - factor[side] ** 2);
    }
    const least = Math.min(kick.flat, kick.sharp);
    const reach = 7 * Math.max(spread.flat, spread.sharp) + Math.max(kick.flat, kick.sharp), xs = [], weights = [];
    for (const [side, sign] of [["sharp", -1], ["flat", 1]]) {
      const length = Math.abs(floor[side]) + reach, count = Math.max(2, Math.ceil(length / (PANEL * least))), h = length / count;
      for (let k = 0; k < count; k++) GAUSS.nodes.forEach((node, i) => {
        const panel = sign > 0 ? k : count - 1 - k, at = (panel + (sign > 0 ? 1 + node : 1 - node) / 2) * h;
        xs.push(sign * at);
        weights.push(GAUSS.weights[i] * h / 2);
      });
      if (sign < 0) this.split = xs.length; // first node of the flat side
    }
    this.x = xs;
    this.n = xs.length;
    this.fill(weights, eta, floor, factor, kick);
    this.exits = { sharp: this.settle(0, this.split), flat: this.settle(this.split, this.n) };
    this.isolated = Math.max(this.exits.sharp.rate, this.exits.flat.rate) < 1e-12;
    if (!this.isolated) { this.settleAll(weights); this.slowest(); }
  }
  fill(weights, eta, floor, factor, kick) {
    const { n, x } = this, K = this.K = new Float64Array(n * n);
    this.band = 0;
    for (let j = 0; j < n; j++) {
      const side = x[j] > 0 ? "flat" : "sharp", mean = floor[side] + factor[side] * (x[j] - floor[side]);
      let sum = 0;
      for (let i = 0; i < n; i++) {
        const z = (x[i] - mean) / kick[side];
        if (Math.abs(z) > CUT) continue;
        sum += K[i * n + j] = weights[i] * Math.exp(-z * z / 2);
        this.band = Math.max(this.band, Math.abs(i - j));
      }
      for (let i = Math.max(0, j - this.band); i <= Math.min(n - 1, j + this.band); i++) K[i * n + j] /= sum;
    }
  }
  times(mass, from = 0, to = this.n) {
    const { n, K, band } = this;
    return mass.map((_, i) => {
      let sum = 0;
      for (let j = Math.max(from, from + i - band); j < Math.min(to, from + i + band + 1); j++) sum += K[(from + i) * n + j] * mass[j - from];
      return sum;
    });
  }
  /** Exit rate, settled mass and survival of one side: the Perron pair of the operator there. */
  settle(from, to) {
    const factors = new Factors(this, from, to);
    let mass = new Float64Array(to - from).fill(1 / (to - from)), survival = new Float64Array(to - from).fill(1), rate = Infinity;
    for (let turn = 0; turn < 100; turn++) {
      mass = factors.solve(mass);
      const sum = total(mass);
      mass = mass.map(v => v / sum);
      survival = factors.solveTransposed(survival);
      const top = Math.max(...survival);
      survival = survival.map(v => v / top);
      const before = rate;
      rate = 1 - total(this.times(mass, from, to));
      if (Math.abs(rate - before) <= 1e-7 * rate + 1e-15) break;
    }
    const scale = dot(survival, mass);
    return { rate: Math.max(rate, 0), mass, survival: survival.map(v => v / scale) };
  }
  /** The stationary mass: one node of the deeper side is pinned. */
  settleAll(weights) {
    const { n, K, split, exits } = this, deep = exits.flat.rate < exits.sharp.rate ? "flat" : "sharp";
    const from = deep === "flat" ? split : 0, heights = exits[deep].mass.map((v, i) => v / weights[from + i]);
    const pin = from + heights.indexOf(Math.max(...heights)), factors = new Factors(this, 0, n, 1, pin);
    const solved = factors.solve(factors.kept.map(i => K[i * n + pin])), mass = new Float64Array(n);
    mass[pin] = 1;
    factors.kept.forEach((i, k) => { mass[i] = solved[k]; });
    const sum = total(mass);
    this.stationary = mass.map(v => v / sum);
    this.flat = total(this.stationary.subarray(split));
  }
  /** 1 − λ₂ and the slowest mode, by inverse iteration with the stationary part taken out. */
  slowest() {
    const { n, split, stationary } = this, factors = new Factors(this, 0, n);
    let left = Float64Array.from(this.x, x => x > 0 ? 1 : 0), right = stationary.map((v, i) => v * (left[i] - this.flat)), decay = Infinity;
    for (let turn = 0; turn < 100; turn++) {
      right = factors.solve(right);
      const excess = total(right);
      right = right.map((v, i) => v - stationary[i] * excess);
      const size = total(right.map(Math.abs));
      right = right.map(v => v / size);
      left = factors.solveTransposed(left);
      const mean = dot(left, stationary);
      left = left.map(v => v - mean);
      const top = Math.max(...left.map(Math.abs));
      left = left.map(v => v / top);
      const before = decay;
      decay = 1 - dot(left, this.times(right)) / dot(left, right);
      if (Math.abs(decay - before) <= 1e-7 * Math.abs(decay) + 1e-15) break;
    }
    this.relaxation = Math.max(decay, 0);
    this.mode = left.map(v => v / dot(left, right));
    this.amplitude = total(right.subarray(split));
  }
  /** Mean of a function over one side: by the stationary law, if isolated by the settled one. */
  mean(value, side) {
    const [from, to] = side === "flat" ? [this.split, this.n] : [0, this.split];
    const mass = this.isolated ? this.exits[side].mass : this.stationary.subarray(from, to);
    return total(mass.map((m, i) => m * value(this.x[from + i]))) / total(mass);
  }
  interpolate(values, x, offset = 0) {
    const k = Math.min(Math.max(this.x.findIndex(v => v > x), offset + 1), offset + values.length - 1);
    const [a, b] = [this.x[k - 1], this.x[k]];
    return values[k - 1 - offset] + (values[k - offset] - values[k - 1 - offset]) * (x - a) / (b - a);
  }
  settledFlat(x) { return this.isolated ? Number(x >= 0) : this.flat + this.amplitude * this.interpolate(this.mode, x); }
  survival(x) { return x >= 0 ? this.interpolate(this.exits.flat.survival, x, this.split) : this.interpolate(this.exits.sharp.survival, x); }
}

const NEVER = 1e-15, ROWS = ["relaxation", "stationary", "exitFlat", "exitSharp", "driftFlat", "driftSharp"];

/** Rows of the table at one y. */
function tabulated(chain, y, eta, before, P) {
  const log = rate => Math.log(Math.max(rate, NEVER)), down = x => eta * downhill(x, y, P);
  return {
    y, relaxation: log(chain.isolated ? 0 : chain.relaxation), stationary: chain.isolated ? before : chain.flat,
    exitFlat: log(chain.exits.flat.rate), exitSharp: log(chain.exits.sharp.rate),
    driftFlat: chain.mean(down, "flat"), driftSharp: chain.mean(down, "sharp"),
  };
}

/** The rate equation along y, a generator: it yields between chains, and returns { t, y, flat, settled }. */
function* follow(eta, Delta, starts, startY, steps, P) {
  const table = [], resolution = 0.4, height = y => barrier(y, P) * widthSharp(y, P) / 2 / Delta;
  let y = startY, spent = 0, stationary = 0.5, first = null;
  while (table.length < 400) {
    const chain = new Chain(y, eta, Delta, P);
    first ??= chain;
    table.push(tabulated(chain, y, eta, stationary, P));
    stationary = table.at(-1).stationary;
    if (table.length > 1 && spent > 1.33 * steps) break;
    const speed = eta * pathDrift(y, P), growth = (height(1.001 * y) - height(y)) / (0.001 * y);
    let move = growth <= 0 ? 0.1 * y + 0.3 : Math.min(resolution / growth, 0.1 * y + 0.3);
    move = chain.isolated ? 0.2 * y : Math.min(move, speed * steps / 8);
    spent += move / speed;
    y += move;
    yield;
  }
  return integrate(table, first, starts, steps);
}

function reader(table) {
  return (name, y) => {
    let k = 1;
    while (k < table.length - 1 && table[k].y < y) k++;
    const [a, b] = [table[k - 1], table[k]];
    return a[name] + (b[name] - a[name]) * (y - a.y) / (b.y - a.y);
  };
}

function integrate(table, first, starts, steps) {
  const at = reader(table), points = 1000, h = steps / points, t = [0], y = [table[0].y];
  const flat = [total(starts.map(x => first.settledFlat(x))) / starts.length], decays = [];
  const speed = (y, p) => p * at("driftFlat", y) + (1 - p) * at("driftSharp", y);
  for (let k = 0; k < points; k++) { // midpoint in y; P relaxes exactly at frozen y
    const half = y[k] + h / 2 * speed(y[k], flat[k]), target = at("stationary", half);
    decays.push(h * Math.exp(at("relaxation", half)));
    flat.push(target + (flat[k] - target) * Math.exp(-decays[k]));
    y.push(y[k] + h * speed(half, (flat[k] + flat[k + 1]) / 2));
    t.push((k + 1) * h);
  }
  return { t, y, flat, decays, settled: settledBy(at, first, starts, h, y, flat) };
}

/** From which point on a share `alike` of the walkers are on the side where they end: what was known of the side decays as P. */
function frozenFrom({ flat, decays }, alike) {
  const p = flat.map(v => Math.min(Math.max(v, 0), 1)), end = p.at(-1);
  for (let k = p.length - 1, later = 0; k >= 0; later += decays[--k]) {
    if (p[k] * end + (1 - p[k]) * (1 - end) + 2 * Math.exp(-later) * p[k] * (1 - p[k]) < alike) return k + 1;
  }
  return 0;
}

/** Probability, at every time, that x changes sign no more. */
function settledBy(at, first, starts, h, y, flat) {
  const settled = new Float64Array(y.length);
  let untouched = 0;
  for (const side of ["flat", "sharp"]) {
    const rate = y.map(v => Math.exp(at(side === "flat" ? "exitFlat" : "exitSharp", v)));
    let later = 0;
    for (let k = y.length - 1; k >= 0; k--) {
      if (k < y.length - 1) later += (rate[k] + rate[k + 1]) / 2 * h;
      settled[k] += (side === "flat" ? flat[k] : 1 - flat[k]) * Math.exp(-later);
    }
    const here = starts.filter(x => (x >= 0) === (side === "flat"));
    untouched += total(here.map(x => first.survival(x))) / starts.length * Math.exp(-later);
  }
  settled[0] = Math.min(untouched, settled[0]);
  for (let k = 1; k < settled.length; k++) settled[k] = Math.max(settled[k], settled[k - 1]);
  return settled;
}

/** Mean and spread of a quantity at the last change of sign. */
function lastHop({ settled }, values) {
  const weight = k => k ? settled[k] - settled[k - 1] : settled[0], middle = k => k ? (values[k] + values[k - 1]) / 2 : values[0];
  let mean = 0, square = 0;
  for (let k = 0; k < values.length; k++) mean += weight(k) * middle(k);
  for (let k = 0; k < values.length; k++) square += weight(k) * (middle(k) - mean) ** 2;
  return { mean, spread: Math.sqrt(square) };
}
