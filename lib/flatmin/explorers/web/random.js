// The normals of flatmin.theory.sgd.rng, bit for bit: a xoshiro128++ stream for each walker, seeded by SplitMix64,
// Box and Muller in single precision. Math.fround rounds each +, −, ×, √ as the compiled code does.
const f = Math.fround;
const single = new Float32Array(1), singleBits = new Int32Array(single.buffer);
const two = new Float64Array(1), power = new Int32Array(two.buffer); // 2ⁿ from its exponent's bits

const larger = (a, b) => a > b ? a : b;

function mix(word) {
  const low = 0xFFFFFFFFFFFFFFFFn;
  word = ((word ^ (word >> 30n)) * 0xBF58476D1CE4E5B9n) & low;
  word = ((word ^ (word >> 27n)) * 0x94D049BB133111EBn) & low;
  return word ^ (word >> 31n);
}

/** The state words of the streams of walkers 0 … n−1; key is a 64-bit number as text. */
function seedStreams(key, n) {
  const golden = 0x9E3779B97F4A7C15n, words = [0, 1, 2, 3].map(() => new Int32Array(n));
  for (let i = 0; i < n; i++) {
    const state = BigInt(key) ^ mix(BigInt.asUintN(64, BigInt(i) * golden + golden));
    const low = mix(BigInt.asUintN(64, state + golden)), high = mix(BigInt.asUintN(64, state + 2n * golden));
    words[0][i] = Number(BigInt.asIntN(32, low));
    words[1][i] = Number(BigInt.asIntN(32, low >> 32n));
    words[2][i] = Number(BigInt.asIntN(32, high));
    words[3][i] = Number(BigInt.asIntN(32, high >> 32n)) | 1;
  }
  return words;
}

const LOG = [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
  -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1].map(f);
const [L0, L1, L2, L3, L4, L5, L6, L7, L8] = LOG, LN2 = f(0.69314718056);
const S1 = f(-1.6666654611e-1), S2 = f(8.3321608736e-3), S3 = f(-1.9515295891e-4);
const C1 = f(4.166664568298827e-2), C2 = f(-1.388731625493765e-3), C3 = f(2.443315711809948e-5);
const TURN = f(Math.PI / 4 * 2 ** -23);

function logarithmSingle(u) {
  single[0] = u;
  const shifted = (singleBits[0] + (0x3F800000 - 0x3F3504F3)) | 0, exponent = (shifted >> 23) - 127;
  singleBits[0] = (shifted & 0x007FFFFF) + 0x3F3504F3;
  const g = f(single[0] - 1);
  let p = f(f(L0 * g) + L1);
  p = f(f(p * g) + L2); p = f(f(p * g) + L3); p = f(f(p * g) + L4); p = f(f(p * g) + L5);
  p = f(f(p * g) + L6); p = f(f(p * g) + L7); p = f(f(p * g) + L8);
  const cubic = f(f(f(p * g) * g) * g), square = f(f(0.5 * g) * g);
  return f(f(g + f(cubic - square)) + f(exponent * LN2));
}

/** Fill z0 and z1, Float32Array, with two independent standard normals of each stream. */
function normals([s0, s1, s2, s3], z0, z1, n) {
  for (let i = 0; i < n; i++) {
    let a = s0[i], b = s1[i], c = s2[i], d = s3[i];
    let r = (a + d) | 0, t = b << 9;
    const first = (((r << 7) | (r >>> 25)) + a) | 0;
    c ^= a; d ^= b; b ^= c; a ^= d; c ^= t; d = (d << 11) | (d >>> 21);
    r = (a + d) | 0; t = b << 9;
    const second = (((r << 7) | (r >>> 25)) + a) | 0;
    c ^= a; d ^= b; b ^= c; a ^= d; c ^= t; d = (d << 11) | (d >>> 21);
    s0[i] = a; s1[i] = b; s2[i] = c; s3[i] = d;
    const low = f(f(((second >>> 1) & 127) * 2 ** -38) + 2 ** -39);
    const u = f(f(f(first >>> 1) * 2 ** -31) + low);
    const radius = f(Math.sqrt(Math.max(f(-2 * logarithmSingle(u)), 0)));
    const angle = f(f(f(second >> 8) + 0.5) * TURN), q = f(angle * angle);
    const sine = f(angle + f(f(angle * q) * f(S1 + f(q * f(S2 + f(q * S3))))));
    let cosine = f(f(1 - f(0.5 * q)) + f(f(q * q) * f(C1 + f(q * f(C2 + f(q * C3))))));
    if (second & 1) cosine = -cosine;
    z0[i] = f(radius * (first & 1 ? sine : cosine));
    z1[i] = f(radius * (first & 1 ? cosine : sine));
  }
}

/** n walkers of SGD: positions Q, an array for each coordinate, after `t` steps; knows nothing of the page. */
class Ensemble {
  constructor(advance, starts) {
    this.advance = advance;
    this.starts = starts; // an array for each coordinate
    this.n = starts[0].length;
    this.Z = [new Float32Array(this.n), new Float32Array(this.n)];
    this.restart();
  }
  restart() {
    this.Q = this.starts.map(values => Float64Array.from(values));
    this.alive = new Uint8Array(this.n).fill(1);
    this.streams = seedStreams(KEY, this.n);
    this.t = this.lived = 0; // lived: steps of all walkers together
    this.living = this.n;
  }
  run(steps, eta, sigma, parameters, after) {
    const amplitude = Math.sqrt(2 * sigma);
    for (let k = 0; k < steps; k++) {
      normals(this.streams, this.Z[0], this.Z[1], this.n);
      this.living = this.advance(this.Q, this.Z, this.n, this.alive, eta, amplitude, parameters);
      this.lived += this.living;
      this.t++;
      after?.(this);
    }
  }
  get lost() { return this.n - this.living; }
}
