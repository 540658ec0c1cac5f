// Chapter 4: SGD on the ridge between two valleys. Above, the walkers in the plane; below, the share in the flat one.
const WIDE = { low: -0.45, high: 0.5 };

function numbers({ delta_s, eta, ratio, start }) {
  const P = { ...FIXED, x1: FIXED.x2 * Math.sqrt(ratio) }, y = FIXED.start_y;
  const at = { ridge: [-FIXED.start_x, FIXED.start_x], sharp: [floorSharp(y, P)], flat: [floorFlat(y, P)] }[start];
  return { eta, Delta: delta_s, sigma: delta_s / eta, P, at, end: Math.round(FIXED.length / eta) };
}

function ensembleOf(n, at) {
  return new Ensemble(advance, [Float64Array.from({ length: n }, (_, i) => at[i % at.length]), new Float64Array(n).fill(FIXED.start_y)]);
}

/** What is watched on the way: the last change of sign of each x, and the side of each at some times. */
class Watch {
  constructor(walkers, every) {
    Object.assign(this, { walkers, every, t: [], y: [], flat: [], sides: [] });
    this.side = Int8Array.from(walkers.Q[0], x => x >= 0 ? 1 : -1);
    this.last = new Int32Array(walkers.n);
    this.where = Float64Array.from(walkers.Q[1]);
    this.note();
  }
  step() {
    const { Q, n, t } = this.walkers, { side, last, where } = this;
    for (let i = 0; i < n; i++) {
      if ((Q[0][i] >= 0 ? 1 : -1) === side[i]) continue;
      side[i] = -side[i];
      last[i] = t;
      where[i] = Q[1][i];
    }
    if (t % this.every === 0) this.note();
  }
  note() {
    const { Q, t } = this.walkers;
    this.t.push(t);
    this.y.push(this.meanOf(Q[1]));
    this.flat.push(this.share());
    this.sides.push(Int8Array.from(this.side));
  }
  /** From which record on the share of the walkers that are on the side where they are now is at least FIXED.alike. */
  frozen() {
    const { side, sides, walkers: { n } } = this;
    const parted = sides.findLastIndex(then => then.reduce((count, s, i) => count + (s === side[i]), 0) < FIXED.alike * n);
    return Math.min(parted + 1, sides.length - 1);
  }
  share() { return this.walkers.Q[0].reduce((count, x) => count + (x >= 0), 0) / this.walkers.n; }
  meanOf(values) { return total(values) / this.walkers.n; }
}

function makeScene(values) {
  let now, walkers, watch, path, frozen, froze, plane;
  const theory = new Theory(value => {
    path = value;
    frozen = lastHop(path, path.y);
    froze = frozenFrom(path, FIXED.alike);
  });
  const ground = makeGround((y, x) => (loss(x, y, now.P) - now.low) / (now.high - now.low));
  function restart() {
    now = numbers(values());
    walkers = ensembleOf(FIXED.walkers, now.at);
    watch = new Watch(walkers, Math.max(Math.round(now.end / 200), 1));
  }
  function set() {
    restart();
    theory.work = follow(now.eta, now.Delta, now.at, FIXED.start_y, now.end, now.P);
    path = frozen = froze = null;
    let y = FIXED.start_y; // how far the floors carry a walker
    for (let k = 0; k < 400; k++) y += FIXED.length / 400 * pathDrift(y, now.P);
    plane = { low: 0, high: Math.ceil(1.15 * y) };
    now.low = Math.min(...[1, 0.5].flatMap(s => [loss(floorFlat(s * y, now.P), s * y, now.P), loss(floorSharp(s * y, now.P), s * y, now.P)])) - 0.02;
    now.high = now.low + 0.6;
    return false;
  }
  set();
  const ticks = () => Array.from({ length: 6 }, (_, k) => k * Math.max(Math.round(plane.high / 5), 1)).filter(v => v <= plane.high);

  function drawMap(c, look) {
    const box = [40, 8, look.w - 8, look.h - 34];
    ground(c, look, box, plane, WIDE, `${now.P.x1},${plane.high}`);
    const [X, Y] = axes(c, look, box, { ...plane, label: "y, along the valleys", ticks: ticks() }, { ...WIDE, label: "x", ticks: [-0.3, 0, 0.3] });
    const along = Array.from({ length: 60 }, (_, k) => plane.high * (k + 0.5) / 60);
    within(c, box, () => {
      curve(c, along.map(y => [X(y), Y(floorFlat(y, now.P))]), look.flat);
      curve(c, along.map(y => [X(y), Y(floorSharp(y, now.P))]), look.sharp, [6, 4]);
      curve(c, [[box[0], Y(0)], [box[2], Y(0)]], look.faint, [2, 3], 1);
      markFrozen(c, look, X, box);
    });
    dots(c, look, box, [walkers.Q[1], walkers.Q[0]], walkers.alive, X, Y);
  }
  function markFrozen(c, look, X, box) {
    if (!frozen) return;
    c.fillStyle = look.faint;
    c.globalAlpha = 0.16;
    const [a, b] = [frozen.mean - frozen.spread, frozen.mean + frozen.spread].map(y => Math.min(Math.max(X(y), box[0]), box[2]));
    c.fillRect(a, box[1], b - a, box[3] - box[1]);
    c.globalAlpha = 1;
    upright(c, look, box, X(frozen.mean), 1.5);
    curve(c, [[X(path.y[froze]), box[1]], [X(path.y[froze]), box[3]]], look.ink, [], 1);
  }
  function drawPlot(c, look) {
    const box = [40, 10, look.w - 8, look.h - 34];
    const [X, Y] = axes(c, look, box, { ...plane, label: "mean y", ticks: ticks() }, { low: 0, high: 1.02, label: "share in the flat valley", ticks: [0, 0.5, 1] });
    markFrozen(c, look, X, box);
    if (path) curve(c, path.y.map((y, k) => [X(y), Y(Math.min(Math.max(path.flat[k], 0), 1))]), look.law);
    c.fillStyle = look.bar;
    watch.t.forEach((_, k) => { if (k % 3 === 0 || k === watch.t.length - 1) disc(c, X(watch.y[k]), Y(watch.flat[k]), 2.6); });
    const seen = watch.frozen(), x = X(watch.y[seen]);
    c.fillStyle = look.ink;
    c.beginPath(); c.moveTo(x, box[3] - 9); c.lineTo(x - 5, box[3]); c.lineTo(x + 5, box[3]); c.fill();
  }
  function read() {
    const { t, n } = walkers, flat = watch.share(), ended = t >= now.end, error = Math.sqrt(flat * (1 - flat) / n);
    const hopped = watch.meanOf(watch.where), still = watch.last.filter(step => step > t - now.end / 20).length / n;
    const law = path ? `${short(Math.min(Math.max(path.flat.at(-1), 0), 1))} in the end, frozen from y = ${short(path.y[froze])}, last hops at y = ${short(frozen.mean)} ± ${short(frozen.spread)}` : "still computing";
    const seen = ended || still < 0.02 ? "frozen" : "hopping";
    return {
      spoken: t ? seen : "at the start",
      colour: seen === "frozen" ? COLOURS.flat : COLOURS.sharp,
      text: `Rate equation: share in the flat valley ${law}. Seen after ${t.toLocaleString("en")} of ${now.end.toLocaleString("en")} steps: ` +
        `share ${short(flat)} ± ${short(error)}, frozen from y = ${short(watch.y[watch.frozen()])}, last hops so far at y = ${short(hopped)}; ` +
        `${short(100 * still)} % hopped lately.`,
      summary: { steps: t, flat, last_hop: watch.meanOf(watch.last), last_hop_y: hopped, frozen_y: watch.y[watch.frozen()], predicted: path ? path.flat.at(-1) : null, predicted_y: frozen?.mean ?? null, predicted_frozen_y: path ? path.y[froze] : null },
    };
  }
  return {
    panels: [
      { label: "Walkers in the plane of y and x", ratio: 0.46, draw: drawMap },
      { label: "Share of the walkers in the flat valley against their mean y, with the rate equation", ratio: 0.36, draw: drawPlot },
    ],
    key: "Above: walkers (dots) on the loss, the floors of the flat (line) and the sharp valley (dashed), the ridge between them " +
      "(dotted). Below: the share of the walkers in the flat valley (dots) and the rate equation (line). Grey band: where it puts " +
      "the last hop, mean and standard deviation. Frozen: from when on nine in ten walkers are in the valley where they end (upright line; " +
      "triangle: seen so far).",
    settle: 100000, get pace() { return Math.max(Math.round(now.end / 600), 1); },
    get ended() { return walkers.t >= now.end; },
    advance(steps) {
      walkers.run(Math.min(steps, now.end - walkers.t), now.eta, now.sigma, now.P, () => watch.step());
    },
    restart, moved: set, steps: () => walkers.t, theory, read,
    python() {
      const { P, eta, at } = now;
      const rest = ["x2", "x0", "f0", "y_b", "y_f", "y_d", "L_d"].map(name => `${name}=${P[name]}`).join(", ");
      const start = at.length > 1 ? `np.where(np.arange(${walkers.n}) % 2 == 0, ${at[0]}, ${at[1]})` : String(at[0]);
      return `import numpy as np
import flatmin as fm

valleys = fm.two_valleys().at(
    x1=${P.x1}, ${rest}
)
start_x = ${start}
runs = fm.simulate(
    valleys, fm.HessianAligned(sigma=${now.sigma}), eta=${eta}, steps=${Math.max(walkers.t, 1)},
    start=(start_x, ${FIXED.start_y}), trajectories=${walkers.n}, seed=${SEED}, hops="x",
)
print((runs.final[:, 0] >= 0).mean(), runs.hops.position[:, 1].mean())
`;
    },
  };
}

const render = host => makeStage(host, CONTROLS, makeScene);
