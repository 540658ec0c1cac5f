// Chapter 6: SGD for linear regression on fresh Gaussian samples. Above, the walkers on the loss, by its logarithm; below,
// mean first passages of its levels beside those of the exact chain (flatmin.theory.logarithmic.multiplicative).
const NODES = [48, 64, 24]; // of the quadratures for √v, ξ and χ, as RegressionChain.matrix takes them

/** Walkers with θ (arrays for each coordinate) and first steps beyond each level, as regression_walkers. */
class Regressors {
  constructor(n, eta, batch, dimension, levels) {
    Object.assign(this, { n, eta, batch, dimension, levels, t: 0, living: n });
    this.theta = Array.from({ length: dimension }, () => new Float64Array(n));
    this.ratio = new Float64Array(n).fill(1); // L/L*
    this.alive = new Uint8Array(n).fill(1);
    this.level = new Uint8Array(n);
    this.passed = levels.map(() => new Int32Array(n)); // 0: not yet
    this.seen = levels.map(() => 0); // how many have passed
    this.streams = seedStreams(KEY, n);
    const count = batch * (dimension + 1);
    this.z = Array.from({ length: count + count % 2 }, () => new Float32Array(n));
    this.next = new Float64Array(dimension);
  }
  run(steps) {
    for (let k = 0; k < steps; k++) {
      for (let j = 0; j < this.z.length; j += 2) normals(this.streams, this.z[j], this.z[j + 1], this.n);
      this.t++;
      for (let i = 0; i < this.n; i++) if (this.alive[i]) this.step(i);
    }
  }
  step(i) {
    const { theta, z, next, dimension, levels, passed } = this, share = this.eta / this.batch;
    next.fill(0);
    for (let first = 0; first < this.batch * (dimension + 1); first += dimension + 1) {
      let error = -z[first + dimension][i];
      for (let a = 0; a < dimension; a++) error += z[first + a][i] * theta[a][i];
      for (let a = 0; a < dimension; a++) next[a] += error * z[first + a][i];
    }
    let ratio = 1, inside = true;
    for (let a = 0; a < dimension; a++) {
      next[a] = theta[a][i] - share * next[a];
      inside &&= Math.abs(next[a]) <= 1000;
      ratio += next[a] * next[a];
    }
    this.ratio[i] = ratio;
    if (inside) for (let a = 0; a < dimension; a++) theta[a][i] = next[a];
    else { this.alive[i] = 0; this.living--; }
    while (this.level[i] < levels.length && (!inside || ratio > levels[this.level[i]])) {
      this.seen[this.level[i]]++;
      passed[this.level[i]++][i] = this.t;
    }
  }
  /** Mean first passage of a level and its error: the time all spent below it over the passages seen; exact when all have passed. */
  passage(k) {
    const times = this.passed[k], seen = this.seen[k], all = seen === this.n;
    const mean = times.reduce((sum, t) => sum + (t || this.t), 0) / seen;
    const spread = all ? Math.sqrt(times.reduce((sum, t) => sum + (t - mean) ** 2, 0) / (seen - 1)) : mean;
    return { seen, all, mean, error: spread / Math.sqrt(seen) };
  }
}

/** Levels c of the loss, and a grid of r = |θ| that has them at the places `at`: even near 0, a progression far out. */
function levelsOf(eta, batch, dimension) {
  const core = Math.sqrt(eta * dimension / batch), count = FIXED.levels * FIXED.between + FIXED.below + 1;
  const end = Math.asinh(2 * Math.sqrt(FIXED.highest)), grid = [], at = [];
  for (let j = 0; j < count; j++) grid.push(core / 2 * Math.sinh(end * j / (count - 1)));
  for (let j = FIXED.below + FIXED.between; j < count; j += FIXED.between) at.push(j);
  const levels = at.map(j => Number((1 + grid[j] ** 2).toPrecision(6)));
  at.forEach((j, k) => { grid[j] = Math.sqrt(levels[k] - 1); });
  return { levels, grid, at };
}

/** Nodes and weights, of sum 1, for √χ² with some degrees of freedom. */
function chiNodes(freedom, number) {
  const { nodes, weights } = gauss(number), low = Math.max(0, Math.sqrt(freedom) - 7.5), high = Math.sqrt(freedom) + 7.5;
  const x = nodes.map(node => low + (high - low) * (node + 1) / 2);
  const log = x.map(v => (freedom - 1) * Math.log(v) - v * v / 2), top = Math.max(...log);
  const w = log.map((v, k) => weights[k] * Math.exp(v - top)), sum = total(w);
  return { x, w: w.map(v => v / sum) };
}

/** The transfer operator on hat functions, left and right halves apart, so that any node can end the grid: a generator. */
function* operator(grid, eta, batch, dimension) {
  const n = grid.length, left = new Float64Array(n * n), right = new Float64Array(n * n), far = new Float64Array(n);
  const u = chiNodes(batch, NODES[0]), xi = gauss(NODES[1]), chi = dimension > 1 ? chiNodes(dimension - 1, NODES[2]) : { x: [0], w: [1] };
  const bell = xi.nodes.map((x, k) => xi.weights[k] * Math.exp(-32 * x * x)), sum = total(bell), root = Math.sqrt(batch);
  for (let i = 0; i < n; i++) {
    const r = grid[i], spread = Math.sqrt((1 + r * r) / batch);
    for (let a = 0; a < u.x.length; a++) for (let b = 0; b < bell.length; b++) {
      const v = u.x[a] / root, along = (1 - eta * v * v) * r + eta * v * 8 * xi.nodes[b] / root;
      for (let k = 0; k < chi.x.length; k++) {
        const across = eta * v * spread * chi.x[k], next = Math.sqrt(along * along + across * across), weight = u.w[a] * bell[b] / sum * chi.w[k];
        if (next >= grid[n - 1]) { far[i] += weight; continue; }
        let low = 0, high = n - 1; // the cell that holds it
        while (high - low > 1) { const middle = (low + high) >> 1; if (grid[middle] <= next) low = middle; else high = middle; }
        const share = (next - grid[low]) / (grid[high] - grid[low]);
        right[i * n + low] += weight * (1 - share);
        left[i * n + high] += weight * share;
      }
    }
    if (dimension > 1 || i % 8 === 0) yield;
  }
  return { n, left, right, far };
}

/** Mean number of steps from 0 until r lies beyond the node `last`, without subtraction (elimination as by GTH). */
function absorption({ n, left, right, far }, last) {
  const size = last + 1, m = new Float64Array(size * size), leave = new Float64Array(size), time = new Float64Array(size).fill(1);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) m[i * size + j] = left[i * n + j] + (j < last ? right[i * n + j] : 0);
    leave[i] = far[i] + right[i * n + last];
    for (let j = size; j < n; j++) leave[i] += left[i * n + j] + right[i * n + j];
  }
  for (let k = last; k > 0; k--) { // leave out state k: paths through it are joined
    let out = leave[k];
    for (let j = 0; j < k; j++) out += m[k * size + j];
    for (let i = 0; i < k; i++) {
      const share = m[i * size + k] / out;
      if (!share) continue;
      leave[i] += share * leave[k];
      time[i] += share * time[k];
      for (let j = 0; j < k; j++) m[i * size + j] += share * m[k * size + j];
    }
  }
  return time[0] / leave[0];
}

/** Mean first passages of all levels by the exact chain, in steps: a generator. */
function* chainTimes({ grid, at }, eta, batch, dimension) {
  const made = yield* operator(grid, eta, batch, dimension), times = [];
  for (const last of at) { times.push(absorption(made, last)); yield; }
  return times;
}

/** A level as a reader wants it: three digits, more where it is so close to 1 that they would not tell it from 1. */
function ratio(c) { return String(Number(c.toFixed(Math.max(0, 2 - Math.floor(Math.log10(c)), 1 - Math.floor(Math.log10(c - 1)))))); }

/** The power of c in the mean passage as printed (M22 Eq. 16), and E A², beyond 1 of which the mean loss has no bound. */
function printedPower(eta, batch, dimension) { return batch / eta + 1 - dimension / 2; }
function meanFactor(eta, batch, dimension) { return 1 - 2 * eta + eta * eta * (1 + (dimension + 1) / batch); }

function makeScene(values) {
  let now, walkers, times;
  const theory = new Theory(value => { times = value; });
  const seen = () => walkers.levels.map((_, k) => walkers.passage(k));
  function restart() { walkers = new Regressors(FIXED.walkers, now.eta, now.batch_size, now.dimension, now.levels); }
  function set() {
    const { eta, batch_size, dimension } = values();
    now = { eta, batch_size, dimension, ...levelsOf(eta, batch_size, dimension) };
    restart();
    theory.work = chainTimes(now, eta, batch_size, dimension);
    times = null;
    return false;
  }
  set();

  function drawLoss(c, look) {
    const box = [44, 10, look.w - 8, look.h - 34], top = 1.2 * Math.log(now.levels.at(-1)), reach = Math.sqrt(Math.exp(top) - 1);
    const step = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find(v => (Math.exp(top) - 1) / v < 5) ?? 50;
    const ticks = Array.from({ length: 5 }, (_, k) => Math.log(1 + k * step)).filter(v => v < top);
    const side = [0.1, 0.2, 0.5, 1, 2, 5].find(v => reach / v < 3) ?? 10;
    const [X, Y] = axes(c, look, box,
      { low: -reach, high: reach, label: "θ₁, first coordinate", ticks: [-2, -1, 0, 1, 2].map(k => Number((k * side).toFixed(1))).filter(v => Math.abs(v) < reach) },
      { low: -0.02 * top, high: top, label: "L/L*, by its logarithm", ticks, words: v => String(Number(Math.exp(v).toFixed(2))) });
    const floor = Array.from({ length: 101 }, (_, k) => reach * (k / 50 - 1));
    now.levels.forEach((level, k) => {
      const share = walkers.seen[k] / walkers.n;
      c.globalAlpha = 0.25 + 0.75 * share;
      curve(c, [[box[0], Y(Math.log(level))], [box[2], Y(Math.log(level))]], share === 1 ? look.sharp : look.faint, [2, 3], 1);
      c.globalAlpha = 1;
    });
    within(c, box, () => curve(c, floor.map(x => [X(x), Y(Math.log(1 + x * x))]), look.faint, [], 1));
    dots(c, look, box, [walkers.theta[0], walkers.ratio.map(Math.log)], walkers.alive, X, Y);
  }
  function drawTimes(c, look) {
    const found = seen(), logs = now.levels.map(Math.log), box = [44, 10, look.w - 8, look.h - 34];
    const shown = found.filter(({ seen: n }) => n >= FIXED.fewest), all = [...shown.map(({ mean }) => mean), ...(times ?? [])];
    const low = Math.floor(Math.log10(Math.min(10, ...all))), high = Math.min(Math.ceil(Math.log10(Math.max(100, ...all))), low + 7);
    const ticks = Array.from({ length: high - low + 1 }, (_, k) => low + k), X = axes(c, look, box,
      { low: logs[0] - 0.05 * logs.at(-1), high: 1.05 * logs.at(-1), label: "level c = L/L*, by its logarithm", ticks: logs.filter((_, k) => k % 3 === 0), words: v => ratio(Math.exp(v)) },
      { low, high, label: "mean steps to pass c", ticks, words: v => `10${raised(v)}` });
    const [x, y] = [X[0], v => X[1](Math.log10(v))];
    within(c, box, () => {
      if (times) {
        const middle = times.length >> 1, power = printedPower(now.eta, now.batch_size, now.dimension);
        curve(c, times.map((t, k) => [x(logs[k]), y(t)]), look.law);
        curve(c, logs.map(v => [x(v), y(times[middle] * Math.exp(power * (v - logs[middle])))]), look.printed, [6, 4], 1.8);
      }
      c.fillStyle = c.strokeStyle = look.bar;
      found.forEach(({ seen: n, all: done, mean, error }, k) => {
        if (n < FIXED.fewest) return;
        bar(c, x(logs[k]), y(mean + error), y(Math.max(mean - error, 1e-3)));
        c.lineWidth = 1.5;
        c.beginPath(); c.arc(x(logs[k]), y(mean), 3, 0, 7);
        if (done) c.fill(); else c.stroke();
      });
    });
  }
  function read() {
    const { eta, batch_size, dimension } = now, { t, n } = walkers, found = seen(), done = found.findLastIndex(({ all }) => all);
    const power = (list, k) => Math.log(list[k + 1] / list[k]) / Math.log(now.levels[k + 1] / now.levels[k]);
    const factor = meanFactor(eta, batch_size, dimension), bounded = factor < 1, lost = n - walkers.living;
    const law = times ? `from ${short(power(times, 0))} at c = ${ratio(now.levels[0])} to ${short(power(times, times.length - 2))} at c = ${ratio(now.levels.at(-1))}` : "still computing";
    const measured = done < 0 ? "no level passed by all yet" :
      `all ${n} walkers beyond c = ${ratio(now.levels[done])}, after ${short(found[done].mean)} ± ${short(found[done].error)} steps` +
      (times ? ` (chain: ${short(times[done])})` : "");
    return {
      spoken: lost ? "walkers lost" : bounded ? "mean loss bounded" : "mean loss without bound",
      colour: bounded && !lost ? COLOURS.flat : COLOURS.sharp,
      text: `Power of c, printed: ${short(printedPower(eta, batch_size, dimension))}; by the exact chain: ${law}. ` +
        `Seen after ${t.toLocaleString("en")} of ${FIXED.length.toLocaleString("en")} steps: ${measured}` +
        `${lost ? `; ${lost} of ${n} walkers lost` : ""}. Far out L changes by the factor ${short(factor)} a step in the mean.`,
      summary: { steps: t, passed: found.map(({ seen: count }) => count), means: found.map(({ mean, all }) => all ? mean : null), lost, predicted: times },
    };
  }
  return {
    panels: [
      { label: "Walkers over θ₁ and the loss, on a logarithmic axis", ratio: 0.46, draw: drawLoss },
      { label: "Mean first passages of levels of the loss, with the exact chain", ratio: 0.4, draw: drawTimes },
    ],
    key: "Above: walkers (dots) over the least loss at each θ₁ (line), and levels c of the loss (dotted; coloured: all have passed). " +
      "Below: mean first passage of each level (filled: all walkers have passed; open: the time all spent below, over the passages seen), " +
      "the exact chain (line), the printed power of c (dashed, through the middle).",
    settle: FIXED.length, get pace() { return Math.min(Math.max(Math.round(walkers.t / 60), 1), 100); },
    get ended() { return walkers.t >= FIXED.length; },
    advance(steps) { walkers.run(Math.min(steps, FIXED.length - walkers.t)); },
    restart, moved: set, steps: () => walkers.t, theory, read,
    python() {
      const { eta, batch_size, dimension, levels } = now;
      return `import numpy as np
from flatmin.theory.logarithmic.loops import regression_walkers

ratios = np.array(
    [${levels.join(", ")}]
)
runs = regression_walkers(
    eta=${eta}, batch_size=${batch_size}, dimension=${dimension}, ratios=ratios, steps=${Math.max(walkers.t, 1)},
    runs=${walkers.n}, seed=${SEED},
)
everyone = (runs.passed > 0).all(axis=0)
print(*(runs.passed > 0).sum(axis=0), runs.diverged.sum(), *runs.passed[:, everyone].mean(axis=0))
`;
    },
  };
}

const render = host => makeStage(host, CONTROLS, makeScene);
