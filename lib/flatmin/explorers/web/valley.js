// Chapter 1: SGD in the near-degenerate valley. Above, the walkers on the loss; below, where they have been.
const MAP = { x: { low: -1.8, high: 1.8 }, y: { low: -1.4, high: 1.6 } }, REACH = 1.8, BINS = 60;

/** E ln|1 − a + bz| of a standard normal z (flatmin.theory.continuum.divergence.typical_growth). */
const typicalGrowth = (() => {
  const step = 0.005, table = [0]; // ∫₀ˢ F, F′ = 1 − 2sF Dawson's function, by Runge and Kutta
  for (let k = 0, F = 0; k < 1500; k++) {
    const slope = (s, value) => 1 - 2 * s * value, s = k * step;
    const k1 = slope(s, F), k2 = slope(s + step / 2, F + step / 2 * k1);
    const k3 = slope(s + step / 2, F + step / 2 * k2), k4 = slope(s + step, F + step * k3);
    const middle = F + step / 4 * (k1 + k2), end = F + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4);
    table.push(table[k] + step / 6 * (F + 4 * middle + end));
    F = end;
  }
  return (shrink, kick) => {
    const ratio = Math.abs(1 - shrink) / kick, r = ratio ** -2;
    if (ratio > 10) return Math.log(kick * ratio) - r / 2 - 3 * r ** 2 / 4 - 5 * r ** 3 / 2 - 105 * r ** 4 / 8;
    const at = ratio / Math.SQRT2 / step, k = Math.min(Math.floor(at), table.length - 2);
    return Math.log(kick) - (0.5772156649015329 + Math.LN2) / 2 + 2 * (table[k] + (at - k) * (table[k + 1] - table[k]));
  };
})();

/** The x > 0 beyond which a typical run grows across the valley; Infinity if nowhere within reach. */
function typicalEdge(eta, Delta, P) {
  const growth = x => typicalGrowth(eta * curvature(x, P), Math.max(Math.sqrt(2 * eta * Delta) * Math.abs(bend(x, P)), 1e-300));
  let x = 6;
  if (growth(x) < 0) return Infinity;
  while (x > 0.005 && growth(x) >= 0) x -= 0.005;
  let low = x, high = x + 0.005;
  if (growth(low) >= 0) return 0;
  for (let k = 0; k < 40; k++) { const m = (low + high) / 2; if (growth(m) < 0) low = m; else high = m; }
  return low;
}

/** Stationary density of |x| and the potential of the mean drift, by the slow equation at step η. */
function slowLaw(eta, Delta, P) {
  const n = 240, h = REACH / n, xs = [0], log = [0], hill = [0];
  const rate = x => drift(x, eta, Delta, P) / diffusion(x, eta, Delta, P);
  let sound = diffusion(0, eta, Delta, P) > 0;
  for (let k = 1; k <= n; k++) {
    const a = (k - 1) * h, b = k * h, m = (a + b) / 2;
    const [da, dm, db] = [a, m, b].map(x => diffusion(x, eta, Delta, P));
    sound &&= dm > 0 && db > 0;
    xs.push(b);
    log.push(log[k - 1] + h / 6 * (rate(a) + 4 * rate(m) + rate(b)) - Math.log(db / da));
    hill.push(hill[k - 1] - h / 6 * [[a, 1], [m, 4], [b, 1]].reduce((sum, [x, w]) => sum + w * drift(x, eta, Delta, P), 0));
  }
  const top = Math.max(...log), p = log.map(v => Math.exp(v - top));
  const total = h * (p.reduce((sum, v) => sum + v) - (p[0] + p[n]) / 2);
  const low = Math.min(...hill);
  return { xs, density: p.map(v => v / total), hill: hill.map(v => v - low), sound: sound && Number.isFinite(total) };
}

function ensembleOf(walkers) {
  return new Ensemble(advance, [new Float64Array(walkers).fill(FIXED.start), new Float64Array(walkers).fill(FIXED.start)]);
}

/** Where the walkers have been lately, by |x|: visits fade, so that the picture follows a moved slider. */
class Visits {
  constructor() { this.forget(); }
  forget() { this.counts = new Float64Array(BINS); this.total = 0; }
  add({ Q, alive, n }) {
    for (let k = 0; k < BINS; k++) this.counts[k] *= 0.985;
    this.total *= 0.985;
    for (let i = 0; i < n; i++) {
      if (!alive[i]) continue;
      const k = Math.floor(Math.abs(Q[0][i]) / REACH * BINS);
      if (k < BINS) this.counts[k]++;
      this.total++;
    }
  }
  density() { return Array.from(this.counts, v => this.total ? v / this.total * BINS / REACH : 0); }
  /** The |x| of the highest bar, of bars averaged over three. */
  peak() {
    const all = this.density(), smooth = all.map((v, k) => v + (all[Math.abs(k - 1)] ?? 0) + (all[k + 1] ?? 0));
    return (smooth.indexOf(Math.max(...smooth)) + 0.5) * REACH / BINS;
  }
}

function makeScene(values) {
  const P = { lambda_0: FIXED.lambda_0, lambda_2: FIXED.lambda_2 }, walkers = ensembleOf(FIXED.walkers), visits = new Visits();
  const ground = makeGround((x, y) => (Math.log(loss(x, y, P)) + 8) / 11, 18);
  let law, edge, onset, flattest, since = 0, mark = { t: 0, rms: 0 }; // mark: rms at half the time
  function set() {
    const { sigma, eta, epsilon, lambda_1 } = values();
    Object.assign(P, { epsilon, lambda_1 });
    law = slowLaw(eta, eta * sigma, P);
    edge = typicalEdge(eta, eta * sigma, P);
    onset = boundary(eta, P);
    flattest = Math.sqrt(-P.lambda_1 / (2 * P.lambda_2));
  }
  set();
  function restart() {
    walkers.restart();
    visits.forget();
    since = 0;
    mark = { t: 0, rms: 0 };
  }

  function drawMap(c, look) {
    const box = [34, 6, look.w - 8, look.h - 34];
    ground(c, look, box, MAP.x, MAP.y, `${P.epsilon},${P.lambda_1}`);
    const [X, Y] = axes(c, look, box, { ...MAP.x, label: "x, along the valley", ticks: [-1, 0, 1] }, { ...MAP.y, label: "y", ticks: [-1, 0, 1] });
    if (edge < REACH) for (const side of [-edge, edge]) upright(c, look, box, X(side));
    for (const [x, colour] of [[0, look.sharp], [-flattest, look.flat], [flattest, look.flat]]) {
      c.strokeStyle = colour;
      c.lineWidth = 2.5;
      c.beginPath(); c.arc(X(x), Y(0), 7, 0, 7); c.stroke();
    }
    dots(c, look, box, walkers.Q, walkers.alive, X, Y);
  }
  function drawPlot(c, look) {
    const box = [34, 10, look.w - 8, look.h - 34], bars = visits.density();
    const shown = law.sound && walkers.lost < walkers.n / 2;
    const tall = 1.08 * Math.max(...bars, shown ? Math.max(...law.density) : 0, 0.5);
    const [X, Y] = axes(c, look, box, { low: 0, high: REACH, label: "|x|", ticks: [0, 0.5, 1, 1.5] }, { low: 0, high: tall, label: "density" });
    c.fillStyle = look.bar;
    c.globalAlpha = 0.6;
    bars.forEach((v, k) => c.fillRect(X(k * REACH / BINS), Y(v), (box[2] - box[0]) / BINS - 1, box[3] - Y(v)));
    c.globalAlpha = 1;
    if (!shown) return;
    curve(c, law.xs.map((x, k) => [X(x), Y(law.density[k])]), look.law);
    const inside = law.hill.filter((_, k) => law.xs[k] < 1.35), top = Math.max(...inside) || 1;
    const hill = law.xs.map((x, k) => [X(x), box[3] - 0.9 * law.hill[k] / top * (box[3] - box[1])]);
    within(c, box, () => curve(c, hill, look.sharp, [6, 4]));
  }
  /** The root mean square of x over the walkers that live, null where none does. */
  function spread() {
    const { Q, alive, living, n } = walkers;
    let sum = 0;
    for (let i = 0; i < n; i++) if (alive[i]) sum += Q[0][i] ** 2;
    return living ? Math.sqrt(sum / living) : null;
  }
  /** The phase that is seen: none before x had the time to relax along the tilt and has stayed since half of it. */
  function seen(rms) {
    const { n, lost, t } = walkers, { eta } = values();
    if (lost > n / 2) return "III";
    if (t - since < 0.5 / (eta * P.epsilon * P.lambda_0) || Math.abs(rms - mark.rms) > 0.03) return null;
    return visits.peak() > 0.2 * flattest ? "II" : "I";
  }
  function read() {
    const { sigma, eta } = values(), { n, lost, t } = walkers, ratio = eta * sigma / onset;
    const rms = spread(), life = lost ? walkers.lived / lost : null, phase = ratio > 1 ? "II" : "I", found = seen(rms);
    const far = edge < REACH ? ` Beyond |x| = ${short(edge)} (dashed lines) a typical run grows without end.` : "";
    const lives = life ? ` ${short(100 * lost / n)} % are lost: they live ${short(life)} ± ${short(life / Math.sqrt(lost))} steps.` : " None is lost.";
    return {
      spoken: `predicted ${phase}, ${found ? `seen ${found}` : "settling"}`,
      colour: COLOURS[`phase ${found ?? phase}`],
      text: `Predicted: phase ${phase}, as Δₛ = ησ = ${short(eta * sigma)} is ${short(ratio)} times the boundary, ${short(onset)}.${far} ` +
        `Seen after ${t.toLocaleString("en")} steps: ${found ? `phase ${found}` : "still settling"}, root mean square of x ${rms === null ? "–" : short(rms)}.${lives}`,
      summary: { steps: t, rms, lost, lifetime: life, predicted: phase, seen: found },
    };
  }
  return {
    panels: [
      { label: "Walkers on the contours of the loss", ratio: 0.5, draw: drawMap },
      { label: "Where the walkers have been, with the predicted density", ratio: 0.36, draw: drawPlot },
    ],
    key: "Above: walkers (dots) on bands of equal ln L, the lowest point and the two flattest points (rings). Below: where the " +
      "walkers have been (bars), the predicted density (line), the potential of the mean drift, which is the loss SGD feels (dashed).",
    settle: 20000, pace: 400, ended: false,
    advance(steps) {
      const { sigma, eta } = values();
      for (let left = steps; left > 0; left -= 20) {
        walkers.run(Math.min(left, 20), eta, sigma, P);
        visits.add(walkers);
        if (walkers.t - since >= 2 * (mark.t - since)) mark = { t: walkers.t, rms: spread() };
      }
    },
    restart,
    moved() {
      set();
      visits.forget();
      since = walkers.t;
      mark = { t: since, rms: 0 };
      if (!walkers.lost) return since > 0;
      restart();
      return false;
    },
    steps: () => walkers.t,
    theory: new Theory(), read,
    python() {
      const { sigma, eta } = values(), start = FIXED.start;
      return `import flatmin as fm

valley = fm.near_degenerate_valley().at(
    epsilon=${P.epsilon}, lambda_0=${P.lambda_0}, lambda_1=${P.lambda_1}, lambda_2=${P.lambda_2}
)
runs = fm.simulate(
    valley, fm.RandomShift(sigma=${sigma}), eta=${eta}, steps=${Math.max(walkers.t, 1)},
    start=(${start}, ${start}), trajectories=${walkers.n}, seed=${SEED},
)
x = runs.final[~runs.diverged, 0]
print((x**2).mean() ** 0.5, runs.diverged.sum())
`;
    },
  };
}

const render = host => makeStage(host, CONTROLS, makeScene);
