// Chapter 7: linear stability of SGD where a few samples have gradients in the plane. Left, the gradients, to be dragged;
// right, the plane of batch and step with the exact edge, the typical one and the bounds; below, paths of the loss.
const signed = v => v.toFixed(3).replace("-", "−").replace("Infinity", "∞");
const SIDES = { low: -2, high: 2 }, SIZES = [1, 2, 4, 8, 16, 32];

/** What linear stability knows of a minimum with gradients g (n pairs), batches with replacement: flatmin.theory.stability. */
class Minimum2 {
  constructor(flat) {
    this.n = flat.length / 2;
    this.g = Array.from({ length: this.n }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
    const mean = f => total(this.g.map(f)) / this.n;
    this.hessian = [0, 1].map(j => [0, 1].map(k => mean(g => g[j] * g[k])));
    const { values, vectors } = eigen(this.hessian), top = values[1];
    const kept = [1, 0].filter(k => values[k] > this.n * 9e-16 * top && top > 1e-12);
    this.values = kept.map(k => values[k]); // largest first, those that are not 0
    this.along = this.g.map(g => kept.map(k => dot(vectors[k], g))); // the gradients in the eigenbasis
    this.trace = total(this.values);
    this.frobenius = Math.sqrt(total(this.values.map(v => v * v)));
    this.fourth = total(this.along.map(a => dot(a, a) ** 2)) / this.n;
    this.pairs = this.values.length > 1 ? [[0, 0], [0, 1], [1, 1]] : this.values.length ? [[0, 0]] : [];
    const { values: lam, pairs } = this, pair = a => pairs.map(([j, k]) => (j === k ? 1 : Math.SQRT2) * a[j] * a[k]);
    this.products = pairs.map(([j, k]) => lam[j] * lam[k]);
    this.sums = pairs.map(([j, k]) => lam[j] + lam[k]);
    const squares = this.along.map(pair); // (1/n) Σ g gᵀ S g gᵀ on symmetric S
    this.noise = pairs.map((_, j) => pairs.map((__, k) => total(squares.map(s => s[j] * s[k])) / this.n));
  }
  /** M of T = 1 − ηA + η²M. */
  second(batch) {
    const c = 1 / batch;
    return this.noise.map((row, j) => row.map((v, k) => c * v + (j === k ? (1 - c) * this.products[j] : 0)));
  }
  /** ρ, the growth of the mean loss a step. */
  growth(eta, batch) {
    const T = this.second(batch).map((row, j) => row.map((v, k) => eta * eta * v + (j === k ? 1 - eta * this.sums[j] : 0)));
    return eigen(T).values.at(-1);
  }
  /** η*, the exact edge. */
  exact(batch) {
    const root = this.sums.map(v => 1 / Math.sqrt(v));
    return 1 / eigen(this.second(batch).map((row, j) => row.map((v, k) => v * root[j] * root[k]))).values.at(-1);
  }
  descent() { return 2 / this.values[0]; }
  traceNecessary(batch) { return 2 * this.trace / ((1 - 1 / batch) * this.frobenius ** 2 + this.fourth / batch); }
  traceSufficient(batch) {
    return 2 / ((1 - 1 / batch) * this.values[0] + Math.max(...this.along.map(a => dot(a, a))) / batch);
  }
  /** Theorem 3.3 of W22, with the best μ₀. */
  theorem(batch) {
    const { along, values } = this, chi = along.map(a => total(a.map((v, k) => values[k] * v * v)));
    const form = values.map((u, j) => values.map((v, k) =>
      total(along.map((a, i) => chi[i] * a[j] * a[k])) / this.n / Math.sqrt(u * v) - (j === k ? u * u : 0)));
    const least = eigen(form).values[0] / this.frobenius ** 2;
    return least > 1e-14 ? Math.sqrt(batch / least) / this.frobenius : Infinity;
  }
  loss([x, y]) { return total(this.g.map(g => (g[0] * x + g[1] * y) ** 2)) / (2 * this.n); }
  /** ln E L after 0 … steps steps, from δ, exactly. */
  meanLosses(eta, batch, delta, steps) {
    const { g, n, hessian: H } = this, c = 1 / batch, [x, y] = delta, logs = [];
    let [a, b, d] = [x * x, x * y, y * y], scale = 0; // E δδᵀ/e^scale
    for (let t = 0; ; t++) {
      const loss = (H[0][0] * a + 2 * H[0][1] * b + H[1][1] * d) / 2;
      logs.push(Math.log(loss) + scale);
      if (t === steps) return logs;
      const [p, q, r, s] = [1 - eta * H[0][0], -eta * H[0][1], H[0][0], H[0][1]], w = 1 - eta * H[1][1], e = eta * eta * c;
      const next = [p * p * a + 2 * p * q * b + q * q * d, p * q * a + (p * w + q * q) * b + q * w * d, q * q * a + 2 * q * w * b + w * w * d];
      const u = H[1][1], hsh = [r * r * a + 2 * r * s * b + s * s * d, r * s * a + (r * u + s * s) * b + s * u * d, s * s * a + 2 * s * u * b + u * u * d];
      const drawn = [0, 0, 0];
      for (const [k, l] of g) {
        const along = (k * k * a + 2 * k * l * b + l * l * d) / n;
        drawn[0] += along * k * k; drawn[1] += along * k * l; drawn[2] += along * l * l;
      }
      [a, b, d] = next.map((v, k) => v + e * (drawn[k] - hsh[k]));
      const size = a + d;
      if (!(size > 0)) return logs;
      [a, b, d] = [a / size, b / size, d / size];
      scale += Math.log(size);
    }
  }
}

/** The next 32 bits of each stream, as integers below `number` (xoshiro128++), written to out. */
function integers([s0, s1, s2, s3], number, out) {
  for (let i = 0; i < out.length; i++) {
    let a = s0[i], b = s1[i], c = s2[i], d = s3[i];
    const r = (a + d) | 0, t = b << 9;
    out[i] = Math.floor(((((r << 7) | (r >>> 25)) + a) >>> 0) * number / 2 ** 32);
    c ^= a; d ^= b; b ^= c; a ^= d; c ^= t; d = (d << 11) | (d >>> 21);
    s0[i] = a; s1[i] = b; s2[i] = c; s3[i] = d;
  }
}

/** Paths of linearised SGD as linear_walkers: δ is (x, y)·2^twos. */
class Paths {
  constructor(n, g, eta, batch, [x, y]) {
    Object.assign(this, { n, g, eta, batch, t: 0 });
    this.x = new Float64Array(n).fill(x);
    this.y = new Float64Array(n).fill(y);
    this.twos = new Float64Array(n);
    this.streams = seedStreams(KEY, n);
    this.drawn = Array.from({ length: batch }, () => new Int32Array(n));
  }
  step() {
    const { n, g, x, y, twos, drawn, batch } = this, share = this.eta / batch;
    for (const each of drawn) integers(this.streams, g.length, each);
    for (let i = 0; i < n; i++) {
      let u = 0, v = 0;
      for (let k = 0; k < batch; k++) {
        const [a, b] = g[drawn[k][i]], error = a * x[i] + b * y[i];
        u += error * a;
        v += error * b;
      }
      x[i] -= share * u;
      y[i] -= share * v;
      const square = x[i] * x[i] + y[i] * y[i];
      if (square > 2 ** 200 || (square > 0 && square < 2 ** -200)) {
        const turn = square > 1 ? 100 : -100;
        x[i] *= 2 ** -turn;
        y[i] *= 2 ** -turn;
        twos[i] += turn;
      }
    }
    this.t++;
  }
  logLosses(minimum) { return Array.from(this.x, (x, i) => Math.log(minimum.loss([x, this.y[i]])) + 2 * Math.LN2 * this.twos[i]); }
}

/** The step at which typical paths turn from falling to growing (typical_edge), on common batches; a generator over B. */
function* typicalEdges(minimum, sizes, paths = 64, steps = 400) {
  const found = [];
  for (const batch of sizes) {
    const streams = seedStreams(KEY, paths), drawn = new Int32Array(paths), [xx, xy, yy] = [0, 1, 2].map(() => new Float64Array(paths * steps));
    for (let t = 0; t < steps; t++) for (let k = 0; k < batch; k++) {
      integers(streams, minimum.n, drawn);
      for (let i = 0; i < paths; i++) {
        const [a, b] = minimum.g[drawn[i]], at = i * steps + t;
        xx[at] += a * a / batch; xy[at] += a * b / batch; yy[at] += b * b / batch;
      }
    }
    yield;
    const rate = eta => { // of ln L, without the first quarter
      let sum = 0;
      for (let i = 0; i < paths; i++) {
        let x = Math.cos(i), y = Math.sin(i), log = 0;
        for (let t = 0, at = i * steps; t < steps; t++, at++) {
          [x, y] = [x - eta * (xx[at] * x + xy[at] * y), y - eta * (xy[at] * x + yy[at] * y)];
          if (t % 8 !== 7 && t !== steps - 1) continue;
          const size = Math.hypot(x, y) || 1e-300;
          [x, y] = [x / size, y / size];
          if (4 * (t + 1) > steps) log += Math.log(size);
        }
        sum += 2 * log;
      }
      return sum / paths / steps;
    };
    let low = minimum.traceSufficient(batch), high = low;
    while (rate(high) <= 0 && high < 1e6 * low) [low, high] = [high, 2 * high];
    for (let k = 0; k < 14; k++) {
      const middle = (low + high) / 2;
      if (rate(middle) <= 0) low = middle; else high = middle;
      if (k % 4 === 0) yield;
    }
    found.push([batch, (low + high) / 2]);
  }
  return found;
}

function makeScene(values) {
  let now, minimum, paths, records, mean, typical, rho, edge;
  const theory = new Theory(value => { typical = value; });
  const flows = () => minimum.values.length > 0; // else all gradients are 0 and nothing moves
  const moves = () => minimum.loss(FIXED.start) > 0; // else no gradient sees the start
  function restart() {
    paths = new Paths(FIXED.walkers, minimum.g, now.eta, now.batch_size, FIXED.start);
    records = [paths.logLosses(minimum)];
  }
  function set() {
    const old = now?.gradients;
    now = values();
    if (old !== now.gradients) {
      minimum = new Minimum2(now.gradients);
      theory.work = flows() ? typicalEdges(minimum, SIZES) : null;
      typical = null;
    }
    rho = flows() ? minimum.growth(now.eta, now.batch_size) : 1;
    edge = flows() ? minimum.exact(now.batch_size) : Infinity;
    mean = minimum.meanLosses(now.eta, now.batch_size, FIXED.start, FIXED.length);
    restart();
    return false;
  }
  set();
  const typicalAt = batch => { // straight between the batches, on logarithmic axes
    const k = Math.max(SIZES.findIndex(size => size >= batch), 1), [[a, low], [b, high]] = [typical[k - 1], typical[k]];
    return low * (high / low) ** (Math.log(batch / a) / Math.log(b / a));
  };

  function drawGradients(c, look) {
    const side = Math.min(look.w - 42, look.h - 44), box = [34, 10, 34 + side, 10 + side];
    const at = axes(c, look, box, { ...SIDES, label: "first parameter", ticks: [-1, 0, 1] }, { ...SIDES, label: "second", ticks: [-1, 0, 1] });
    const [X, Y] = at;
    curve(c, [[X(-2), Y(0)], [X(2), Y(0)]], look.faint, [2, 3], 1);
    upright(c, look, box, X(0), 1);
    minimum.g.forEach(([x, y], k, all) => {
      curve(c, [[X(0), Y(0)], [X(x), Y(y)]], look.bar, [], 2);
      c.fillStyle = look.bar;
      disc(c, X(x), Y(y), 6);
      const here = all.flatMap(([u, v], j) => u === x && v === y ? [j + 1] : []); // one upon the other: all their numbers, once
      c.fillStyle = look.ink;
      c.textAlign = x > 1.6 ? "right" : "left";
      if (here[0] === k + 1) c.fillText(here.join(" "), X(x) + (x > 1.6 ? -9 : 9), Y(y) + (y > 1.8 ? 18 : -8));
    });
    return at;
  }
  function drawPlane(c, look) {
    const box = [40, 10, look.w - 8, look.h - 34], low = Math.log10(0.05), high = 1;
    const [X, Y] = axes(c, look, box,
      { low: 0, high: 5, label: "batch size B", ticks: [0, 1, 2, 3, 4, 5], words: v => String(2 ** v) },
      { low, high, label: "step η", ticks: [-1, 0, 1], words: v => String(10 ** v) });
    const x = batch => X(Math.log2(batch)), y = eta => Y(Math.log10(Math.min(Math.max(eta, 1e-9), 1e9)));
    const all = Array.from({ length: 41 }, (_, k) => 2 ** (k / 8)), line = step => all.map(batch => [x(batch), y(step(batch))]);
    if (flows()) within(c, box, () => {
      const exact = line(batch => minimum.exact(batch));
      c.fillStyle = look.faint;
      c.globalAlpha = 0.22;
      c.beginPath();
      for (const [px, py] of [...exact, [box[2], box[1]], [box[0], box[1]]]) c.lineTo(px, py);
      c.fill();
      c.globalAlpha = 1;
      curve(c, line(() => minimum.descent()), look.gd, [1, 3]);
      curve(c, line(batch => minimum.traceNecessary(batch)), look.flat, [8, 3, 2, 3], 1.6);
      curve(c, line(batch => minimum.theorem(batch)), look.printed, [6, 4], 1.8);
      curve(c, exact, look.law, [], 2.6);
      if (typical) {
        curve(c, typical.map(([batch, eta]) => [x(batch), y(eta)]), look.law, [4, 3], 1.3);
        c.fillStyle = look.law;
        for (const [batch, eta] of typical) disc(c, x(batch), y(eta), 2.2);
      }
    });
    c.fillStyle = look.walker;
    c.strokeStyle = look.ink;
    c.lineWidth = 1.5;
    disc(c, x(now.batch_size), y(now.eta), 6);
    c.stroke();
  }
  function drawPaths(c, look) {
    const box = [40, 10, look.w - 16, look.h - 34], tens = v => (v - records[0][0]) / Math.LN10, drawn = FIXED.drawn;
    const ends = records.at(-1).slice(0, drawn).map(tens).filter(Number.isFinite), reach = Math.max(2, ...ends.map(Math.abs)) * 1.1;
    const unit = [1, 2, 5, 10, 20, 50, 100, 200].find(v => reach / v < 3.5) ?? 500, least = Math.max(-reach, Math.min(...ends, -1) * 1.2 - 1), most = Math.max(Math.min(reach, Math.max(...ends, 1) * 1.2 + 1), -0.3 * least);
    const ticks = Array.from({ length: 9 }, (_, k) => (k - 4) * unit).filter(v => v > least && v < most);
    const [X, Y] = axes(c, look, box, { low: 0, high: FIXED.length, label: "step", ticks: [0, 100, 200, 300].filter(v => v <= FIXED.length) }, { low: least, high: most, label: "log₁₀ of the loss over that at the start", ticks });
    within(c, box, () => {
      curve(c, [[box[0], Y(0)], [box[2], Y(0)]], look.faint, [2, 3], 1);
      c.globalAlpha = 0.5;
      for (let i = 0; i < drawn; i++) curve(c, records.map((all, t) => [X(t), Y(Math.max(tens(all[i]), 2 * least))]), look.bar, [], 0.7);
      c.globalAlpha = 1;
      curve(c, mean.map((v, t) => [X(t), Y(tens(v))]), look.law, [], 2.4);
    });
  }
  /** Mean rate of ln L a step over the paths, and its error; −∞ where a path has reached a loss of 0. */
  function rate() {
    const t = paths.t, each = records[t].map(v => (v - records[0][0]) / t), middle = total(each) / paths.n;
    return { rate: middle, error: Math.sqrt(total(each.map(v => (v - middle) ** 2)) / (paths.n - 1) / paths.n) };
  }
  function read() {
    const { eta, batch_size } = now, t = paths.t, found = t && moves() ? rate() : { rate: null, error: null }, late = typical ? typicalAt(batch_size) : null;
    const beyond = eta > edge, lost = late !== null && eta > late;
    const bounds = flows() ? `trace ${short(minimum.traceNecessary(batch_size))}, Theorem 3.3 ${short(minimum.theorem(batch_size))}, 2/λ₁ ${short(minimum.descent())}` : "none, as nothing moves";
    return {
      spoken: !flows() ? "all gradients are 0" : !moves() ? "nothing moves: the start is a minimum" : !beyond ? "stable" : lost ? "typical runs leave" : late === null ? "the mean leaves" : "only the mean leaves",
      colour: !beyond ? COLOURS.flat : lost ? COLOURS.sharp : COLOURS.highlight,
      text: `At B = ${batch_size} SGD is stable in the mean up to η* = ${short(edge)}, typical runs come back up to ${late === null ? "…" : short(late)}; at η = ${short(eta)} the mean loss ` +
        `grows by ρ = ${short(rho)} a step. Bounds of η: ${bounds}. Seen after ${t} steps: ln L of a run changes by ` +
        `${found.rate === null ? "–" : Number.isFinite(found.rate) ? `${signed(found.rate)} ± ${found.error.toFixed(3)}` : signed(found.rate)} a step (of the mean: ${signed(Math.log(rho))}).`,
      summary: { steps: t, rate: found.rate, error: found.error, rho, edge, typical: late },
    };
  }
  return {
    panels: [
      { label: "The gradients of the samples; each can be moved", ratio: 1, draw: drawGradients, half: true, handles: "gradients" },
      { label: "The plane of batch size and step with the edges and the bounds", ratio: 1, draw: drawPlane, half: true },
      { label: "Loss of some runs against the step, with the exact mean", ratio: 0.36, draw: drawPaths },
    ],
    key: "First: the gradient of each sample; drag its end. Second: where SGD is stable (white) and not (grey), edge of the mean (thick) and " +
      "of typical runs (dots), the bounds by trace (dash-dotted), by the Frobenius norm (W22's Theorem 3.3, dashed), 2/λ₁ (dotted), and where you are " +
      `(disc). Below: the loss of ${FIXED.drawn} runs (thin) and its exact mean (thick).`,
    settle: FIXED.length, pace: 1,
    get ended() { return paths.t >= FIXED.length; },
    advance(steps) {
      for (let k = Math.min(steps, FIXED.length - paths.t); k > 0; k--) { paths.step(); records.push(paths.logLosses(minimum)); }
    },
    restart, moved: set, steps: () => paths.t, theory, read,
    python() {
      if (!moves()) return `# No gradient sees the start, (${FIXED.start.join(", ")}): its loss is 0, nothing moves, there is nothing to run.\n`;
      const rows = minimum.g.map(([x, y]) => `(${x}, ${y})`), [x, y] = FIXED.start;
      return `import numpy as np
import flatmin as fm
from flatmin.theory.stability.threshold import growth, largest_step
from flatmin.theory.stability.walkers import linear_walkers

gradients = np.array(
    [${rows.join(", ")}]
)
delta, twos = linear_walkers(
    gradients, eta=${now.eta}, batch_size=${now.batch_size}, start=(${x}, ${y}),
    steps=${Math.max(paths.t, 1)}, trajectories=${paths.n}, seed=${SEED},
)
log_losses = np.log(np.square(delta @ gradients.T).mean(axis=1) / 2) + 2 * np.log(2) * twos
at_start = np.log(np.square(gradients @ (${x}, ${y})).mean() / 2)
minimum = fm.Minimum.from_gradients(gradients)
how = {"batch_size": ${now.batch_size}, "sampling": "replacement"}
print((log_losses - at_start).mean() / ${Math.max(paths.t, 1)}, growth(minimum, ${now.eta}, **how), largest_step(minimum, **how))
`;
    },
  };
}

const render = host => makeStage(host, CONTROLS, makeScene);
