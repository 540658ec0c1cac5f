const NAME = "two_valleys";
const CONTROLS = [{"name": "delta_s", "words": "noise Δₛ = ησ", "low": 0.0001, "high": 0.01, "step": 0.01, "log": true, "whole": false}, {"name": "eta", "words": "step η", "low": 0.005, "high": 0.05, "step": 0.01, "log": true, "whole": false}, {"name": "ratio", "words": "flatness ratio ρ", "low": 1.05, "high": 3.0, "step": 0.05, "log": false, "whole": false}, {"name": "start", "words": "start", "options": ["ridge", "sharp", "flat"]}];
const FIXED = {"x2": 0.65, "x0": 1.0, "f0": 1.0, "y_b": 30.0, "y_f": 20.0, "y_d": 100.0, "L_d": 1.0, "walkers": 500, "start_y": 1.0, "start_x": 0.01, "length": 400, "alike": 0.9};
function advance(Q, Z, n, alive, eta, amplitude, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }, bound = 1000) {
  let living = 0;
  for (let i = 0; i < n; i++) {
    if (!alive[i]) continue;
    const x = Q[0][i];
    const y = Q[1][i];
    const z0 = Z[0][i];
    const z1 = Z[1][i];
    const r_0 = 1.0/(f0);
    const r_1 = 1.0/(x1);
    const r_2 = 1.0/(x2);
    const r_3 = 1.0/(y_d);
    const r_4 = 1.0/(y + y_f);
    const w_0 = y + y_b;
    const w_1 = ((w_0)*(w_0));
    const w_2 = w_1*x;
    const w_3 = ((r_4)*(r_4));
    const w_4 = ((x0)*(x0));
    const w_5 = (x >= 0.0);
    const w_6 = (w_5 ? ((r_1)*(r_1)) : ((r_2)*(r_2)));
    const w_7 = r_0*w_4*w_6;
    const w_8 = w_3*w_7;
    const w_9 = 4.0*w_8;
    const w_10 = w_0*x;
    const w_11 = 2.0*(w_5 ? x1 : -x2);
    const w_12 = w_11*y;
    const w_13 = w_10 - w_12;
    const w_14 = w_0*w_13;
    const w_15 = 2.0*r_4;
    const w_16 = -w_11 + x;
    const w_17 = w_0*w_16 + 3.0*w_0*x - w_12 - w_14*w_15 - w_15*w_2;
    const w_18 = L_d*exponential(-r_3*y);
    const w_19 = ((r_3)*(r_3))*w_18;
    const w_20 = w_1*w_8;
    const w_21 = w_16*w_8*x;
    const w_22 = ((r_4)*(r_4)*(r_4))*w_7;
    const w_23 = w_10*w_22;
    const w_24 = w_16*w_23;
    const w_25 = w_22*x;
    const w_26 = ((r_4)*(r_4)*(r_4)*(r_4));
    const w_27 = w_13*w_26*w_7;
    const w_28 = 6.0*w_10*w_27 - 4.0*w_13*w_25 + w_19 - 2.0*w_20 + 2.0*w_21 - 4.0*w_24;
    const w_29 = ((r_0)*(r_0))*((w_17)*(w_17))*w_26*((x0)*(x0)*(x0)*(x0))*(w_5 ? ((r_1)*(r_1)*(r_1)*(r_1)) : ((r_2)*(r_2)*(r_2)*(r_2))) + 2.3e-308;
    const w_30 = Math.sqrt((0.25)*((w_28)*(w_28)) + w_29);
    const w_31 = Math.sqrt((0.25)*((w_28)*(w_28)) + w_29);
    const w_32 = 3.0*w_10*w_27 - 2.0*w_13*w_25 + (0.5)*w_19 + w_20 + w_21 - 2.0*w_24;
    const w_33 = (Math.sqrt(larger(0.0, -w_31 + w_32)) - Math.sqrt(larger(0.0, w_31 + w_32)))/w_30;
    const w_34 = 2.0*w_17*w_33*w_8;
    const w_35 = w_28*w_33;
    const w_36 = 2.0*Math.sqrt(larger(0.0, -w_30 + w_32)) + 2.0*Math.sqrt(larger(0.0, w_30 + w_32));
    const w_37 = amplitude*z0;
    const w_38 = (0.25)*eta;
    const new0 = -w_38*(-amplitude*w_34*z1 + w_14*w_9 + w_2*w_9 + w_37*(w_35 + w_36)) + x;
    const new1 = -w_38*(amplitude*z1*(-w_35 + w_36) + 4.0*r_0*w_0*w_16*w_3*w_4*w_6*x + 4.0*r_0*w_13*w_3*w_4*w_6*x - 4.0*r_3*w_18 - 8.0*w_13*w_23 - w_34*w_37) + y;
    const domain0 = new1 + y_f;
    if (Math.abs(new0) <= bound && Math.abs(new1) <= bound && domain0 > 0) { Q[0][i] = new0; Q[1][i] = new1; living++; } else alive[i] = 0;
  }
  return living;
}

function loss(x, y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(f0);
  const r_1 = 1.0/(x1);
  const r_2 = 1.0/(x2);
  const r_3 = 1.0/(y_d);
  const r_4 = 1.0/(y + y_f);
  const w_0 = r_0*((x0)*(x0));
  const w_1 = x*(y + y_b);
  const w_2 = (x >= 0.0);
  const value = L_d*exponential(-r_3*y) + ((r_4)*(r_4))*w_0*w_1*(w_1 - 2.0*y*(w_2 ? x1 : -x2))*(w_2 ? ((r_1)*(r_1)) : ((r_2)*(r_2))) + w_0;
  return value;
}

function downhill(x, y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(f0);
  const r_1 = 1.0/(x1);
  const r_2 = 1.0/(x2);
  const r_3 = 1.0/(y_d);
  const r_4 = 1.0/(y + y_f);
  const w_0 = (x >= 0.0);
  const w_1 = 2.0*(w_0 ? x1 : -x2);
  const w_2 = x*(y + y_b);
  const w_3 = ((x0)*(x0));
  const w_4 = (w_0 ? ((r_1)*(r_1)) : ((r_2)*(r_2)));
  const w_5 = r_0*((r_4)*(r_4))*w_3*w_4;
  const w_6 = -w_1*y + w_2;
  const value = L_d*r_3*exponential(-r_3*y) + 2.0*r_0*((r_4)*(r_4)*(r_4))*w_2*w_3*w_4*w_6 - w_2*w_5*(-w_1 + x) - w_5*w_6*x;
  return value;
}

function barrier(y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(f0);
  const r_1 = 1.0/(y + y_f);
  const value = r_0*((r_1)*(r_1))*((x0)*(x0))*((y)*(y));
  return value;
}

function pathDrift(y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(f0);
  const r_1 = 1.0/(y_d);
  const r_2 = 1.0/(y + y_f);
  const w_0 = 2.0*r_0*((x0)*(x0));
  const value = L_d*r_1*exponential(-r_1*y) - ((r_2)*(r_2)*(r_2))*w_0*((y)*(y)) + ((r_2)*(r_2))*w_0*y;
  return value;
}

function floorFlat(y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(y + y_b);
  const value = r_0*x1*y;
  return value;
}

function widthFlat(y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(x0);
  const r_1 = 1.0/(y + y_b);
  const value = f0*((r_0)*(r_0))*((r_1)*(r_1))*((x1)*(x1))*((y + y_f)*(y + y_f));
  return value;
}

function floorSharp(y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(y + y_b);
  const value = -r_0*x2*y;
  return value;
}

function widthSharp(y, { x1, x2, x0, f0, y_b, y_f, y_d, L_d }) {
  const r_0 = 1.0/(x0);
  const r_1 = 1.0/(y + y_b);
  const value = f0*((r_0)*(r_0))*((r_1)*(r_1))*((x2)*(x2))*((y + y_f)*(y + y_f));
  return value;
}
