// Chapter 8: five sharp directions over a floor of a hundred flat ones. Above, ln F against time for four rules; below,
// how far each flat direction has gone against the noise at which it gives way.
const { lambda_0: LAM0, lambda_1: LAM1, lambda_2: LAM2, tilt: TILT, start: START } = VALLEY;
const SHARP = LAM0.length, FLAT = LAM1[0].length, SIZE = FLAT + SHARP;
const byDirection = rows => Float64Array.from({ length: SHARP * FLAT }, (_, k) => rows[k % SHARP][Math.floor(k / SHARP)]);
const ONES = byDirection(LAM1), TWOS = byDirection(LAM2); // λ₁ and λ₂ of direction j at j·SHARP + i

/** Walkers of one rule: shift is √(2σ) of the random shift or 0, iso √(2σ) of isotropic noise or 0. */
class Swarm {
  constructor(n, shift, iso, eta) {
    Object.assign(this, { n, shift, iso, eta, t: 0, living: n });
    this.q = Array.from({ length: n }, () => Float64Array.from(START));
    this.alive = new Uint8Array(n).fill(1);
    this.streams = seedStreams(KEY, n);
    this.z = Array.from({ length: SIZE + SIZE % 2 }, () => new Float32Array(n));
    for (const name of ["curve", "along", "first", "second"]) this[name] = new Float64Array(SHARP);
    this.next = new Float64Array(SIZE);
  }
  run(steps) {
    for (let k = 0; k < steps; k++) {
      if (this.shift + this.iso > 0) for (let j = 0; j < SIZE; j += 2) normals(this.streams, this.z[j], this.z[j + 1], this.n);
      for (let i = 0; i < this.n; i++) if (this.alive[i] && !this.step(this.q[i], i)) { this.alive[i] = 0; this.living--; }
      this.t++;
    }
  }
  /** One step of walker w; false, and unmoved, where it would leave the bound. As flatmin.theory.sgd.structured. */
  step(q, w) {
    const { curve, along, first, second, next, z, shift, iso, eta } = this;
    curve.set(LAM0);
    along.fill(0);
    for (let j = 0; j < FLAT; j++) {
      const x = q[j], square = x * x, moved = 2 * x * shift * z[j][w];
      for (let i = 0; i < SHARP; i++) {
        const one = ONES[j * SHARP + i], two = TWOS[j * SHARP + i];
        curve[i] += square * (one + two * square);
        along[i] += moved * (one + 2 * two * square);
      }
    }
    for (let i = 0; i < SHARP; i++) {
      const k = FLAT + i, y = q[k], mu = shift * z[k][w];
      first[i] = y * (0.5 * y - mu);
      second[i] = y * y;
      next[k] = y - eta * (curve[i] * (y - mu) - y * along[i] + iso * z[k][w]);
    }
    for (let j = 0; j < FLAT; j++) {
      const x = q[j], square = x * x, kick = z[j][w];
      let force = TILT, bend = TILT;
      for (let i = 0; i < SHARP; i++) {
        const one = ONES[j * SHARP + i], two = TWOS[j * SHARP + i];
        force += first[i] * (2 * one + 4 * two * square);
        bend += second[i] * (one + 6 * two * square);
      }
      next[j] = x - eta * (force * x - bend * shift * kick + iso * kick);
    }
    for (let k = 0; k < SIZE; k++) if (!(Math.abs(next[k]) <= 1000)) return false;
    q.set(next);
    return true;
  }
  /** Mean and spread of ln F over the walkers that live, null where none does. */
  flatness() {
    const all = this.q.filter((_, i) => this.alive[i]).map(logFlatness), mean = all.reduce((a, b) => a + b, 0) / all.length;
    return all.length ? { mean, spread: Math.sqrt(all.reduce((a, b) => a + (b - mean) ** 2, 0) / all.length) } : null;
  }
}

function curvatures(x) {
  return LAM0.map((zero, i) => LAM1[i].reduce((sum, one, j) => sum + x[j] ** 2 * (one + LAM2[i][j] * x[j] ** 2), zero));
}
function logFlatness(x) { return -curvatures(x).reduce((sum, v) => sum + Math.log(v), 0) / (2 * SHARP); }

/** Δₛ at which each flat direction gives way at step η while the others stand at 0. */
function thresholds(eta) {
  return LAM1[0].map((_, j) => {
    const pull = -LAM0.reduce((sum, zero, i) => sum + zero / (1 - eta * zero / 2) * LAM1[i][j], 0);
    return pull > 0 ? TILT / pull : Infinity;
  });
}

/** σ of isotropic noise as strong as the random shift at x = 0: by trace, and by the kick of a sharp coordinate. */
function isotropicStrengths(sigma) {
  const square = LAM0.reduce((sum, v) => sum + v * v, 0);
  return { trace: sigma * (square + FLAT * TILT ** 2) / SIZE, kick: sigma * square / SHARP };
}

/** Velocity of (x, ⟨y²⟩) in τ = ηt under the averaged dynamics, written to out. */
function averagedFlow(s, out, eta, level) {
  for (let j = 0; j < FLAT; j++) out[j] = -TILT * s[j];
  for (let i = 0; i < SHARP; i++) {
    const m = s[FLAT + i], ones = LAM1[i], twos = LAM2[i];
    let curve = LAM0[i], steep = 0;
    for (let j = 0; j < FLAT; j++) {
      const square = s[j] * s[j], slope = 2 * s[j] * (ones[j] + 2 * twos[j] * square);
      curve += square * (ones[j] + twos[j] * square);
      steep += slope * slope;
      out[j] -= m * slope / 2;
    }
    out[FLAT + i] = 2 * level * curve * curve - (2 * curve - eta * curve * curve - 2 * level * steep) * m;
  }
}

/** The averaged dynamics by Runge and Kutta, a generator; returns points [τ, ln F], up to where it runs away. */
function* averaged(eta, level, end) {
  const [k1, k2, k3, k4, at] = [0, 1, 2, 3, 4].map(() => new Float64Array(SIZE)), path = [[0, logFlatness(START)]];
  const state = Float64Array.from(START, (v, k) => k < FLAT ? v : v * v);
  const move = (slope, by) => { for (let i = 0; i < SIZE; i++) at[i] = state[i] + by * slope[i]; };
  for (let tau = 0, next = 1, k = 0; tau < end - 1e-9; k++) {
    const h = tau < 4 ? 0.02 : 0.1; // first the squares of y settle
    averagedFlow(state, k1, eta, level);
    move(k1, h / 2); averagedFlow(at, k2, eta, level);
    move(k2, h / 2); averagedFlow(at, k3, eta, level);
    move(k3, h); averagedFlow(at, k4, eta, level);
    for (let i = 0; i < SIZE; i++) state[i] += h / 6 * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]);
    if (!state.every(v => Math.abs(v) < 1e6)) return path;
    tau += h;
    if (tau >= next - 1e-9) { path.push([tau, logFlatness(state)]); next += end / 200; }
    if (k % 50 === 0) yield;
  }
  return path;
}

function makeScene(values) {
  const kinds = ["SGD", "GD", "GLD, equal trace", "GLD, equal kick"];
  let swarms, records, law, limits, end;
  const theory = new Theory(value => { law = value; });
  function restart() {
    const { sigma, eta } = values(), root = v => Math.sqrt(2 * v), gld = isotropicStrengths(sigma);
    end = Math.round(FIXED.length / eta);
    swarms = [
      new Swarm(FIXED.walkers, root(sigma), 0, eta), new Swarm(1, 0, 0, eta),
      new Swarm(FIXED.others, 0, root(gld.trace), eta), new Swarm(FIXED.others, 0, root(gld.kick), eta),
    ];
    records = swarms.map(swarm => [[0, swarm.flatness()]]);
  }
  function set() {
    restart();
    const { sigma, eta } = values();
    theory.work = averaged(eta, eta * sigma, FIXED.length);
    law = null;
    limits = thresholds(eta);
    return false;
  }
  set();
  function advance(steps) {
    const every = Math.max(Math.round(end / 100), 1);
    for (let left = Math.min(steps, end - swarms[0].t); left > 0;) {
      const now = Math.min(left, every - swarms[0].t % every);
      swarms.forEach((swarm, k) => {
        swarm.run(now);
        if (swarm.t % every === 0 && swarm.living) records[k].push([swarm.t * swarm.eta, swarm.flatness()]);
      });
      left -= now;
    }
  }
  const looks = look => [[look.bar, []], [COLOURS.gd, [2, 3]], [COLOURS.gld, [8, 3, 2, 3]], [COLOURS.gld, [3, 3]]];

  function drawFlatness(c, look) {
    const all = [...records.flat().map(([, f]) => f.mean), ...(law ?? []).map(([, f]) => f)].filter(Number.isFinite);
    const low = Math.min(...all) - 0.02, high = Math.max(...all) + 0.03, box = [44, 10, look.w - 20, look.h - 34];
    const step = [0.02, 0.05, 0.1, 0.2, 0.5, 1].find(v => (high - low) / v < 7) ?? 2, ticks = [];
    for (let k = Math.ceil(low / step); k * step < high; k++) ticks.push(Number((k * step).toFixed(2)));
    const [X, Y] = axes(c, look, box, { low: 0, high: FIXED.length, label: "time τ = ηt", ticks: [0, 200, 400, 600, 800, 1000] }, { low, high, label: "ln F", ticks });
    if (law) curve(c, law.map(([t, f]) => [X(t), Y(f)]), look.law);
    records.forEach((record, k) => {
      const [colour, dash] = looks(look)[k], points = record.map(([t, f]) => [X(t), Y(f.mean)]);
      if (k) curve(c, points, colour, dash);
      else record.forEach(([t, f]) => {
        c.fillStyle = colour;
        bar(c, X(t), Y(f.mean + f.spread), Y(f.mean - f.spread));
        disc(c, X(t), Y(f.mean), 2.4);
      });
    });
  }
  function drawDirections(c, look) {
    const { sigma, eta } = values(), level = eta * sigma, finite = limits.filter(Number.isFinite), box = [44, 10, look.w - 20, look.h - 34];
    const low = Math.floor(Math.log10(Math.min(level, ...finite))), high = Math.ceil(Math.log10(Math.max(level, ...finite)));
    const ticks = Array.from({ length: high - low + 1 }, (_, k) => low + k);
    const [X, Y] = axes(c, look, box, { low, high, label: "log₁₀ of the Δₛ at which a direction gives way", ticks }, { low: 0, high: 0.8, label: "root mean square of xⱼ", ticks: [0, 0.4, 0.8] });
    upright(c, look, box, X(Math.log10(level)));
    const { q, alive, living } = swarms[0];
    c.fillStyle = look.bar;
    for (let j = 0; j < FLAT && living; j++) {
      if (!Number.isFinite(limits[j])) continue;
      const square = q.reduce((sum, point, i) => alive[i] ? sum + point[j] ** 2 : sum, 0) / living;
      disc(c, X(Math.log10(limits[j])), Y(Math.min(Math.sqrt(square), 0.8)), 2.6);
    }
  }
  function read() {
    const { sigma, eta } = values(), [sgd, ...others] = swarms, now = sgd.flatness(), level = eta * sigma;
    const beyond = limits.filter(limit => limit < level).length, steps = sgd.t, ended = steps >= end;
    const rest = others.map((swarm, k) => `${kinds[k + 1]} ${swarm.living ? swarm.flatness().mean.toFixed(3) : "lost"}`).join(", ");
    return {
      spoken: ended ? "at the end" : steps ? "running" : "at the start",
      colour: COLOURS.sgd,
      text: `At Δₛ = ησ = ${short(level)} ${beyond} of ${FLAT} flat directions are beyond their threshold. After ` +
        `${steps.toLocaleString("en")} of ${end.toLocaleString("en")} steps ln F is ${now ? `${now.mean.toFixed(3)} ± ${now.spread.toFixed(3)}` : "lost"} ` +
        `for SGD (averaged dynamics in the end: ${law ? law.at(-1)[1].toFixed(3) : "computing"}); ${rest}.`,
      summary: { steps, log_flatness: now?.mean ?? null, predicted: law ? law.at(-1)[1] : null, beyond },
    };
  }
  return {
    panels: [
      { label: "ln F against time for SGD, GD and GLD", ratio: 0.42, draw: drawFlatness },
      { label: "How far each flat direction has gone, against its threshold", ratio: 0.34, draw: drawDirections },
    ],
    key: `Above: ln F, the flatness, of SGD (dots, bars: spread of ${FIXED.walkers} walkers) and by the averaged dynamics (line), of GD ` +
      "(dotted), of GLD as strong as SGD in all (dash-dotted) or in every coordinate (dashed). Below: each flat direction of SGD (dot) " +
      "against the noise at which it gives way; dashed: the noise now.",
    settle: 200000, pace: 500,
    get ended() { return swarms[0].t >= end; },
    advance, restart, moved: set, steps: () => swarms[0].t, theory, read,
    python() {
      const { sigma, eta } = values();
      return `import flatmin as fm
from flatmin.theory.valleys.high_dimensional import high_dimensional_valley

valley = high_dimensional_valley(${SHARP}, ${FLAT}, seed=${SEED})
runs = fm.simulate(
    valley, fm.RandomShift(sigma=${sigma}), eta=${eta}, steps=${Math.max(swarms[0].t, 1)},
    start=list(valley.start(${SEED})), trajectories=${FIXED.walkers}, seed=${SEED},
)
log_flatness = valley.log_flatness(runs.final[~runs.diverged])
print(log_flatness.mean(), log_flatness.std())
`;
    },
  };
}

const render = host => makeStage(host, CONTROLS, makeScene);
