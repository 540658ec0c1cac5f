// Numbers that several explorers need.
const total = values => values.reduce((sum, v) => sum + v, 0);
const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** Nodes and weights of Gauss and Legendre on (−1, 1). */
function gauss(n) {
  const nodes = [], weights = [];
  for (let k = 0; k < n; k++) {
    let x = Math.cos(Math.PI * (k + 0.75) / (n + 0.5)), slope = 1;
    for (let turn = 0; turn < 50; turn++) {
      let before = 1, now = x;
      for (let j = 2; j <= n; j++) [before, now] = [now, ((2 * j - 1) * x * now - (j - 1) * before) / j];
      slope = n * (x * now - before) / (x * x - 1);
      x -= now / slope;
    }
    nodes.unshift(x);
    weights.unshift(2 / ((1 - x * x) * slope * slope));
  }
  return { nodes, weights };
}

/** Eigenvalues, rising, of a small symmetric matrix (rows), and its eigenvectors as rows, by Jacobi's rotations. */
function eigen(matrix) {
  const n = matrix.length, a = matrix.map(row => [...row]), v = a.map((_, i) => a.map((_, j) => Number(i === j)));
  for (let sweep = 0; sweep < 40; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) {
      off = Math.max(off, Math.abs(a[p][q]) / Math.sqrt(Math.abs(a[p][p] * a[q][q]) || 1e-300));
      if (!a[p][q]) continue;
      const half = (a[q][q] - a[p][p]) / (2 * a[p][q]), t = (half < 0 ? -1 : 1) / (Math.abs(half) + Math.hypot(half, 1));
      const cos = 1 / Math.hypot(t, 1), sin = t * cos;
      for (let k = 0; k < n; k++) [a[k][p], a[k][q]] = [cos * a[k][p] - sin * a[k][q], sin * a[k][p] + cos * a[k][q]];
      for (const rows of [a, v]) [rows[p], rows[q]] = [rows[p].map((x, k) => cos * x - sin * rows[q][k]), rows[q].map((x, k) => cos * x + sin * rows[p][k])];
    }
    if (off < 1e-17) break;
  }
  const order = a.map((_, i) => i).sort((i, j) => a[i][i] - a[j][j]);
  return { values: order.map(i => a[i][i]), vectors: order.map(i => v[i]) };
}
