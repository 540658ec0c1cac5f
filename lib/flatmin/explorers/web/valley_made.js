const NAME = "valley";
const CONTROLS = [{"name": "sigma", "words": "noise σ", "low": 0.001, "high": 3.0, "step": 0.01, "log": true, "whole": false}, {"name": "eta", "words": "step η", "low": 0.003, "high": 0.24, "step": 0.01, "log": true, "whole": false}, {"name": "epsilon", "words": "tilt ε", "low": 0.0001, "high": 0.05, "step": 0.01, "log": true, "whole": false}, {"name": "lambda_1", "words": "bend λ₁", "low": -4.0, "high": -0.5, "step": 0.25, "log": false, "whole": false}];
const FIXED = {"lambda_0": 8, "lambda_2": 1, "walkers": 1000, "start": 1.5};
function advance(Q, Z, n, alive, eta, amplitude, { epsilon, lambda_0, lambda_1, lambda_2 }, bound = 1000) {
  let living = 0;
  for (let i = 0; i < n; i++) {
    if (!alive[i]) continue;
    const x = Q[0][i];
    const y = Q[1][i];
    const z0 = Z[0][i];
    const z1 = Z[1][i];
    const w_0 = epsilon*lambda_0;
    const w_1 = amplitude*z0;
    const w_2 = ((y)*(y));
    const w_3 = w_1*w_2;
    const w_4 = amplitude*z1;
    const w_5 = w_4*y;
    const w_6 = 2.0*lambda_1*x;
    const w_7 = 4.0*lambda_2*((x)*(x)*(x));
    const w_8 = ((x)*(x));
    const w_9 = lambda_2*w_8;
    const w_10 = lambda_1*w_8;
    const w_11 = lambda_2*((x)*(x)*(x)*(x));
    const w_12 = w_1*y;
    const new0 = eta*(lambda_1*w_3 + w_0*w_1 - w_0*x - w_2*x*(lambda_1 + 2.0*w_9) + 6.0*w_3*w_9 + w_5*w_6 + w_5*w_7) + x;
    const new1 = eta*(lambda_0*w_4 + w_10*w_4 + w_11*w_4 + w_12*w_6 + w_12*w_7 - y*(lambda_0 + w_10 + w_11)) + y;
    if (Math.abs(new0) <= bound && Math.abs(new1) <= bound) { Q[0][i] = new0; Q[1][i] = new1; living++; } else alive[i] = 0;
  }
  return living;
}

function loss(x, y, { epsilon, lambda_0, lambda_1, lambda_2 }) {
  const w_0 = ((x)*(x));
  const value = (0.5)*epsilon*lambda_0*w_0 + (0.5)*((y)*(y))*(lambda_0 + lambda_1*w_0 + lambda_2*((x)*(x)*(x)*(x)));
  return value;
}

function drift(x, eta, Delta_S, { epsilon, lambda_0, lambda_1, lambda_2 }) {
  const r_0 = 1.0/(-0.5*eta*(lambda_0 + lambda_1*((x)*(x)) + lambda_2*((x)*(x)*(x)*(x))) + 1.0);
  const r_1 = 1.0/(4.0*lambda_0 + 4.0*lambda_1*((x)*(x)) + 4.0*lambda_2*((x)*(x)*(x)*(x)));
  const w_0 = epsilon*lambda_0;
  const w_1 = Delta_S*r_0;
  const w_2 = ((x)*(x));
  const w_3 = lambda_1*w_2;
  const w_4 = ((x)*(x)*(x)*(x));
  const w_5 = lambda_2*w_4;
  const w_6 = lambda_0 + w_3 + w_5;
  const w_7 = lambda_2*w_2;
  const w_8 = lambda_1 + 2.0*w_7;
  const w_9 = w_6*w_8;
  const w_10 = w_0 + w_1*w_9;
  const w_11 = w_2*((w_8)*(w_8));
  const w_12 = lambda_1 + 6.0*w_7;
  const w_13 = eta*w_6;
  const w_14 = ((r_0)*(r_0));
  const w_15 = Delta_S*w_14;
  const w_16 = ((Delta_S)*(Delta_S));
  const w_17 = w_13 - 1.0;
  const w_18 = r_1*w_11;
  const w_19 = 4.0*lambda_1;
  const w_20 = 8.0*w_7;
  const w_21 = ((lambda_1)*(lambda_1));
  const w_22 = ((lambda_2)*(lambda_2));
  const value = x*(-0.5*eta*w_10*(w_0 + 2.0*w_1*w_11 + w_1*w_12*w_6 + w_11*w_13*w_15) + 4.0*r_1*w_14*w_16*w_17*w_6*(eta*r_0*w_11 + w_12 - 8.0*w_18)*(lambda_0*w_19 + lambda_0*w_20 + 12.0*lambda_1*w_5 + r_0*w_17*w_9 + w_0*w_19 + w_0*w_20 + 4.0*w_2*w_21 + 8.0*w_22*((x)*(x)*(x)*(x)*(x)*(x))) - 16.0*r_1*w_14*w_16*w_2*w_9*(4.0*lambda_2*w_3 + w_21 + 4.0*w_22*w_4) - 2.0*w_10*w_15*w_18*(r_0*w_13 + 2.0) - w_10);
  return value;
}

function diffusion(x, eta, Delta_S, { epsilon, lambda_0, lambda_1, lambda_2 }) {
  const r_0 = 1.0/(-0.5*eta*(lambda_0 + lambda_1*((x)*(x)) + lambda_2*((x)*(x)*(x)*(x))) + 1.0);
  const r_1 = 1.0/(4.0*lambda_0 + 4.0*lambda_1*((x)*(x)) + 4.0*lambda_2*((x)*(x)*(x)*(x)));
  const w_0 = ((x)*(x));
  const w_1 = 2.0*w_0;
  const w_2 = lambda_1 + lambda_2*w_1;
  const w_3 = ((r_0)*(r_0));
  const w_4 = lambda_1*w_0;
  const w_5 = ((x)*(x)*(x)*(x));
  const w_6 = lambda_2*w_5;
  const w_7 = lambda_0 + w_4 + w_6;
  const w_8 = w_3*((w_7)*(w_7));
  const w_9 = ((lambda_1)*(lambda_1));
  const w_10 = ((lambda_2)*(lambda_2));
  const w_11 = lambda_0*lambda_1;
  const w_12 = epsilon*w_11;
  const w_13 = lambda_1*w_6;
  const w_14 = 8.0*w_10*((x)*(x)*(x)*(x)*(x)*(x));
  const w_15 = lambda_0*lambda_2*w_0;
  const w_16 = r_0*w_7;
  const w_17 = 8.0*w_15;
  const w_18 = 4.0*w_0;
  const w_19 = w_2*(eta*w_7 - 1.0);
  const value = Delta_S*(3.0*((Delta_S)*(Delta_S))*w_8*(12.0*lambda_2*w_4 + 36.0*w_10*w_5 + w_9) + Delta_S*eta*w_0*((w_2)*(w_2))*w_8 + Delta_S*r_1*w_18*w_19*w_3*w_7*(epsilon*w_17 + 4.0*w_11 + 4.0*w_12 + 12.0*w_13 + w_14 + w_16*w_19 + w_17 + w_18*w_9) + 2.0*Delta_S*w_16*(6.0*epsilon*w_15 + w_1*w_9 + w_12 + 8.0*w_13 + w_14) + ((epsilon)*(epsilon))*((lambda_0)*(lambda_0)));
  return value;
}

function boundary(eta, { epsilon, lambda_0, lambda_1, lambda_2 }) {
  const r_0 = 1.0/(lambda_1);
  const w_0 = eta*lambda_0;
  const value = (0.5)*epsilon*r_0*(4.0*epsilon*w_0 - 10.0*epsilon + w_0 - 2.0);
  return value;
}

function curvature(x, { epsilon, lambda_0, lambda_1, lambda_2 }) {
  const value = lambda_0 + lambda_1*((x)*(x)) + lambda_2*((x)*(x)*(x)*(x));
  return value;
}

function bend(x, { epsilon, lambda_0, lambda_1, lambda_2 }) {
  const value = 2.0*x*(lambda_1 + 2.0*lambda_2*((x)*(x)));
  return value;
}
