// The page around a scene: buttons, sliders, canvases, what is said, and time. A scene has panels that draw, and
// advance, restart, moved, read and python; see makeStage. Works as an anywidget front end: render({ model, el }).
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function raised(power) { return [...String(power)].map(d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join(""); }

/** A number as a reader wants it: three digits. */
function short(value) {
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1).replace("-", m => value < 0 ? "−" : m).replace(/e-(\d+)/, (_, power) => `·10⁻${raised(power)}`);
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "−");
}

function isNight() {
  const page = document.documentElement.dataset.theme, lab = document.body.dataset.jpThemeLight;
  return page ? page === "dark" : lab ? lab === "false" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** The colours of one theme: those of the book's figures, lighter at night. */
function palette() {
  return isNight()
    ? { night: true, ink: "#e6e6e6", faint: "#8c93a3", walker: "#ffd166", bar: "#56b4e9", flat: "#56b4e9", sharp: "#ff8a4c", gd: "#ffc04d", printed: "#e6a8cc", law: "#ffffff" }
    : { night: false, ink: "#222222", faint: "#6b6b6b", walker: COLOURS.sgd, bar: COLOURS.sgd, flat: COLOURS.sgd, sharp: COLOURS.sharp, gd: COLOURS.gd, printed: COLOURS.printed, law: COLOURS.theory };
}

/** A slider or a list for one parameter, in step with the model both ways. */
function makeControl(model, control) {
  const { name, words, low, high, step, log, options } = control;
  const input = options
    ? element("select", {}, ...options.map(value => element("option", { value }, value)))
    : element("input", { type: "range", min: log ? Math.log10(low) : low, max: log ? Math.log10(high) : high, step });
  const shown = element("output");
  const show = () => {
    const value = model.get(name);
    if (options) { input.value = value; return; }
    input.value = log ? Math.log10(value) : value;
    shown.textContent = short(value);
    input.setAttribute("aria-valuetext", `${words} ${shown.textContent}`);
  };
  const take = () => {
    const raw = Number(input.value), value = Number((log ? 10 ** raw : raw).toPrecision(3));
    model.set(name, options ? input.value : Math.min(Math.max(value, low), high));
    model.save_changes();
  };
  input.addEventListener(options ? "change" : "input", take);
  if (!options) input.addEventListener("keydown", event => { // JupyterLab keeps the arrow keys from a slider
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    input.value = Number(input.value) + way * (log ? 5 : 1) * step;
    take();
  });
  model.on(`change:${name}`, show);
  show();
  return { node: element("label", {}, element("span", {}, words), input, shown), off: () => model.off(`change:${name}`, show) };
}

/** A button on a panel for each of some points, to drag or to move by arrow keys; place says where the panel has them. */
function makeHandles(model, { name, words, low, high, step }) {
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const at = k => model.get(name).slice(2 * k, 2 * k + 2);
  const put = (k, point) => {
    const values = [...model.get(name)];
    point.forEach((v, j) => { values[2 * k + j] = Number(Math.min(Math.max(Math.round(v / step) * step, low), high).toFixed(3)); });
    if (values.every((v, j) => v === model.get(name)[j])) return;
    model.set(name, values);
    model.save_changes();
  };
  let X = v => v, Y = X;
  const nodes = Array.from({ length: model.get(name).length / 2 }, (_, k) => {
    const node = element("button", { type: "button", class: "fmx-handle" });
    node.addEventListener("pointerdown", event => { node.setPointerCapture(event.pointerId); event.preventDefault(); node.focus(); });
    node.addEventListener("pointermove", event => {
      if (!node.hasPointerCapture(event.pointerId)) return;
      const box = node.offsetParent.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
      put(k, [(x - X(0)) / (X(1) - X(0)), (y - Y(0)) / (Y(1) - Y(0))]);
    });
    node.addEventListener("keydown", event => {
      const way = ways[event.key];
      if (!way) return;
      event.preventDefault();
      event.stopPropagation();
      put(k, at(k).map((v, j) => v + way[j] * step));
    });
    return node;
  });
  const show = () => nodes.forEach((node, k) => {
    const [x, y] = at(k);
    node.style.left = `${X(x)}px`;
    node.style.top = `${Y(y)}px`;
    node.setAttribute("aria-label", `${words} ${k + 1} at ${x}, ${y}; arrow keys move it`);
  });
  model.on(`change:${name}`, show);
  return { name, nodes, off: () => model.off(`change:${name}`, show), place: axes => { [X, Y] = axes; show(); } };
}

/** A canvas that knows its size in device pixels (at most two for one); draw(context, look) in CSS pixels. A panel may
 * take half of the width, and have handles, to which draw returns the functions from values to pixels. */
function makePanel({ label, ratio, draw, half }, handles) {
  const canvas = element("canvas", { role: "img", "aria-label": label });
  const node = element("div", { class: half ? "fmx-panel fmx-half" : "fmx-panel" }, canvas, ...(handles?.nodes ?? []));
  canvas.style.aspectRatio = String(1 / ratio);
  const redraw = look => {
    const scale = Math.min(devicePixelRatio || 1, 2), w = Math.max(canvas.clientWidth, 200), h = Math.round(w * ratio);
    if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
      canvas.width = Math.round(w * scale);
      canvas.height = Math.round(h * scale);
    }
    const c = canvas.getContext("2d");
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, w, h);
    c.font = "12px sans-serif";
    const axes = draw(c, { ...look, w, h, scale });
    handles?.place(axes);
  };
  return { node, redraw, tell: text => canvas.setAttribute("aria-label", `${label}. ${text}`) };
}

/** Axes of a plot in the box [left, top, right, bottom], words(tick) at the ticks; the functions from values to pixels. */
function axes(c, look, box, x, y) {
  const [left, top, right, bottom] = box;
  const X = value => left + (value - x.low) / (x.high - x.low) * (right - left);
  const Y = value => bottom - (value - y.low) / (y.high - y.low) * (bottom - top);
  c.strokeStyle = c.fillStyle = look.ink;
  c.lineWidth = 1;
  c.beginPath(); c.moveTo(left, top); c.lineTo(left, bottom); c.lineTo(right, bottom); c.stroke();
  c.textAlign = "center";
  for (const tick of x.ticks ?? []) c.fillText((x.words ?? String)(tick), X(tick), bottom + 14);
  c.fillText(x.label, (left + right) / 2, bottom + 28);
  c.textAlign = "right";
  for (const tick of y.ticks ?? []) c.fillText((y.words ?? String)(tick), left - 5, Y(tick) + 4);
  c.textAlign = "left";
  c.fillText(y.label, left + 6, top + 4);
  return [X, Y];
}

function curve(c, points, colour, dash = [], width = 2) {
  c.strokeStyle = colour;
  c.lineWidth = width;
  c.setLineDash(dash);
  c.beginPath();
  for (const [x, y] of points) c.lineTo(x, y);
  c.stroke();
  c.setLineDash([]);
}

/** A dashed line from top to bottom of a box. */
function upright(c, look, [, top, , bottom], x, width) { curve(c, [[x, top], [x, bottom]], look.faint, [5, 4], width); }

function disc(c, x, y, radius) { c.beginPath(); c.arc(x, y, radius, 0, 7); c.fill(); }

/** An upright bar over x, pale: a spread or an error. */
function bar(c, x, top, bottom) {
  c.globalAlpha = 0.45;
  c.fillRect(x - 0.75, top, 1.5, bottom - top);
  c.globalAlpha = 1;
}

/** Draw what must not leave a box. */
function within(c, [left, top, right, bottom], draw) {
  c.save();
  c.beginPath(); c.rect(left, top, right - left, bottom - top); c.clip();
  draw();
  c.restore();
}

/** Walkers that live as small squares, in one path; those beyond the box stay out of sight. */
function dots(c, look, box, [xs, ys], alive, X, Y) {
  c.fillStyle = look.walker;
  c.beginPath();
  for (let i = 0; i < xs.length; i++) {
    const x = X(xs[i]), y = Y(ys[i]);
    if (alive[i] && x > box[0] && x < box[2] && y > box[1] && y < box[3]) c.rect(x - 1, y - 1, 2, 2);
  }
  c.fill();
}

/** Bands of a function with values in 0…1 over a box, as an image; made again when size, theme or `key` change. */
function makeGround(value, bands = 16) {
  let kept = null, known = "";
  return (c, look, box, x, y, key) => {
    const [w, h] = [Math.round((box[2] - box[0]) * look.scale), Math.round((box[3] - box[1]) * look.scale)];
    const now = [w, h, look.night, key].join();
    if (now !== known) {
      const image = new ImageData(w, h), row = new Int16Array(w);
      for (let j = 0; j < h; j++) for (let i = 0; i < w; i++) {
        const at = Math.floor(bands * Math.min(Math.max(value(x.low + (x.high - x.low) * i / w, y.high - (y.high - y.low) * j / h), 0), 1));
        const s = at / bands, rim = (i && at !== row[i - 1]) || (j && at !== row[i]) ? 0.75 : 1; // row: the line above, then this one
        const shade = look.night ? [24 + 44 * s, 30 + 62 * s, 46 + 88 * s] : [255 - 90 * s, 255 - 66 * s, 255 - 34 * s];
        row[i] = at;
        image.data.set([...shade.map(v => look.night ? v / rim : v * (0.6 + 0.4 * rim)), 255], 4 * (j * w + i));
      }
      kept = new OffscreenCanvas(w, h);
      kept.getContext("2d").putImageData(image, 0, 0);
      known = now;
    }
    c.drawImage(kept, box[0], box[1], box[2] - box[0], box[3] - box[1]);
  };
}

/** The buttons; each calls what it is for. */
function makeButtons(calls) {
  const nodes = {};
  for (const [name, words] of [["play", "Pause"], ["restart", "Restart"], ["skip", "Skip ahead"], ["copy", "Copy as Python"]]) {
    nodes[name] = element("button", { type: "button" }, words);
    nodes[name].addEventListener("click", calls[name]);
  }
  return nodes;
}

/** What a scene says, for eyes all the time, for a screen reader when the words in `spoken` change. */
function makeVoice() {
  const badge = element("strong", { class: "fmx-badge" }), said = element("p", { class: "fmx-said" });
  const status = element("p", { class: "fmx-aloud", role: "status" });
  return {
    badge, said, status,
    tell({ spoken, text, colour }) {
      badge.textContent = spoken;
      badge.style.setProperty("--fmx-phase", colour);
      said.textContent = text;
      if (status.dataset.spoken === spoken) return;
      status.dataset.spoken = spoken;
      status.textContent = `${spoken}. ${text}`;
    },
  };
}

/** Tell when an element comes into sight or leaves it, and when to draw it anew: its size or the theme changed. */
function watchPage(el, seen, redraw) {
  const sight = new IntersectionObserver(entries => seen(entries.at(-1).isIntersecting));
  const size = new ResizeObserver(redraw), theme = new MutationObserver(redraw);
  sight.observe(el);
  size.observe(el);
  theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  return () => { for (const each of [sight, size, theme]) each.disconnect(); };
}

/** Show code and put it on the clipboard; where a page may not, it is selected. */
async function offer(code, text, button) {
  const words = button.dataset.words ??= button.textContent;
  code.textContent = text;
  code.hidden = false;
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(code); button.textContent = "Selected: copy it"; }
  setTimeout(() => { button.textContent = words; }, 2000);
}

/** The theory of a scene, a generator that is worked at between frames; found(what it returned) when it ends. */
class Theory {
  constructor(found) { Object.assign(this, { found, work: null }); }

  /** A few milliseconds of it; false when there is no more to do. */
  think() {
    if (!this.work) return false;
    const start = performance.now();
    let step;
    do step = this.work.next(); while (!step.done && performance.now() - start < 5);
    if (!step.done) return true;
    this.work = null;
    this.found(step.value);
    return false;
  }
}

/** Mount a scene with all its controls. makeScene(values) gives, for the values of the parameters,
 * panels, key (what the marks mean), advance(steps), ended, restart(), moved() after a change of values, theory,
 * read() → {spoken, text, colour, summary}, settle (steps for a first result) and python() → the call that gives the
 * numbers on the screen. */
function makeStage({ model, el }, all, makeScene) {
  const values = () => Object.fromEntries(all.map(({ name }) => [name, model.get(name)]));
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const scene = makeScene(values), voice = makeVoice();
  let running = !calm.matches, visible = true, frame = 0, cost = 1, told = 0, drawn = 0, mixed = false, ahead = 0;
  const handles = all.filter(({ points }) => points).map(control => makeHandles(model, control));
  const panels = scene.panels.map(panel => makePanel(panel, handles.find(({ name }) => name === panel.handles)));
  const buttons = makeButtons({ play: () => setRunning(!running), restart, skip: () => { ahead += scene.settle; next(); }, copy });
  const controls = all.filter(({ points }) => !points).map(control => makeControl(model, control));
  const code = element("pre", { tabindex: "0", "aria-label": "The same run in Python" });
  code.hidden = true;
  el.classList.add("flatmin-explorer");
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab: the keys are ours while the focus is here
  el.replaceChildren(
    element("div", { class: "fmx-bar" }, ...Object.values(buttons), voice.badge),
    element("div", { class: "fmx-controls" }, ...controls.map(({ node }) => node)),
    voice.said, ...panels.map(({ node }) => node), element("p", { class: "fmx-key" }, scene.key), code, voice.status);

  function draw(when = performance.now()) {
    drawn++;
    if (ahead > 0 && drawn % 8) return;
    const look = palette();
    panels.forEach((panel, k) => { if (!k || !running || drawn % 3 === 0) panel.redraw(look); }); // plots change slowly
    if (running && !ahead && when - told < 500) return;
    told = when;
    const now = scene.read();
    voice.tell(now);
    for (const panel of panels) panel.tell(now.text);
    model.set("summary", now.summary);
    model.save_changes();
  }
  function tick(when) {
    frame = 0;
    if (!visible) return;
    const thinking = scene.theory.think(), start = performance.now();
    if (ahead > 0 || running) { // as many steps as fit into a frame, more where only the result is wanted
      const fit = Math.max(Math.floor((ahead > 0 ? 40 : 7) / cost), 1);
      const count = ahead > 0 ? Math.min(fit, ahead) : Math.min(fit, scene.pace);
      scene.advance(count);
      cost = 0.7 * cost + 0.3 * Math.max((performance.now() - start) / count, 1e-3);
      ahead = scene.ended ? 0 : Math.max(ahead - count, 0);
    }
    if (scene.ended && running) setRunning(false);
    draw(when);
    if (thinking || ahead > 0 || running) next();
  }
  function next() { if (!frame && visible) frame = requestAnimationFrame(tick); }
  function setRunning(value) {
    if (value && scene.ended) restart();
    running = value;
    buttons.play.textContent = running ? "Pause" : "Play";
    next();
  }
  function restart() {
    scene.restart();
    mixed = false;
    ahead = 0;
    code.hidden = true;
    if (calm.matches && !running) ahead = scene.settle;
    next();
  }
  function moved() {
    mixed = scene.moved(); // false: the scene began anew
    code.hidden = true;
    if (!running) ahead = scene.settle;
    next();
  }
  function copy() { // the numbers on the screen must be those of one call: run it again if a slider moved
    setRunning(false);
    if (mixed) { const t = scene.steps(); scene.restart(); scene.advance(Math.min(t, scene.settle)); mixed = false; }
    ahead = 0;
    draw();
    offer(code, scene.python(), buttons.copy);
  }
  for (const { name } of all) model.on(`change:${name}`, moved);
  const unwatch = watchPage(el, seen => { visible = seen; next(); }, () => draw());
  const still = () => setRunning(!calm.matches && running);
  calm.addEventListener("change", still);
  if (calm.matches) ahead = scene.settle; // a result, not the start, where nothing may move
  setRunning(running);
  return () => {
    visible = false;
    cancelAnimationFrame(frame);
    unwatch();
    calm.removeEventListener("change", still);
    for (const control of [...controls, ...handles]) control.off();
    for (const { name } of all) model.off(`change:${name}`, moved);
  };
}
