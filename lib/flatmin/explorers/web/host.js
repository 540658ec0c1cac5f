// What a notebook's kernel is to an explorer, in a page without one: a model of plain values, kept in the address.
window.flatminExplorers = (() => {
  const explorers = {};

  class Model {
    constructor(values) { this.values = { ...values }; this.calls = new Map(); }
    get(name) { return this.values[name]; }
    set(name, value) {
      if (Object.is(this.values[name], value)) return;
      this.values[name] = value;
      for (const call of this.calls.get(`change:${name}`) ?? []) call();
    }
    save_changes() {} // there is no kernel that could want them
    on(event, call) { this.calls.set(event, [...(this.calls.get(event) ?? []), call]); }
    off(event, call) { this.calls.set(event, (this.calls.get(event) ?? []).filter(each => each !== call)); }
  }

  // #explorer=valley&sigma=0.2: only what is declared, and lies in its range, is taken
  function fromAddress(name, controls, hash = location.hash) {
    const fields = new URLSearchParams(hash.slice(1)), found = {};
    if (fields.get("explorer") !== name) return found;
    for (const control of controls) {
      const text = fields.get(control.name);
      if (text === null) continue;
      const numbers = text.split(",").map(part => part.trim() ? Number(part) : NaN);
      const inside = numbers.every(v => v >= control.low && v <= control.high && (!control.whole || Number.isInteger(v)));
      if (control.options) { if (control.options.includes(text)) found[control.name] = text; }
      else if (inside && numbers.length === (control.points ?? 1)) found[control.name] = control.points ? numbers : numbers[0];
    }
    return found;
  }

  function mount(place) {
    const name = place.dataset.explorer, explorer = explorers[name];
    if (!explorer || place.model) return;
    const start = JSON.parse(place.dataset.state), given = fromAddress(name, explorer.controls);
    const model = place.model = new Model({ ...start, ...given });
    let timer = 0;
    const keep = () => { // the address says what differs from the start
      clearTimeout(timer);
      timer = setTimeout(() => {
        const changed = Object.keys(start).filter(key => model.get(key) !== start[key]);
        const fields = new URLSearchParams([["explorer", name], ...changed.map(key => [key, model.get(key)])]);
        if (changed.length || new URLSearchParams(location.hash.slice(1)).get("explorer") === name) {
          history.replaceState(null, "", `#${fields}`);
        }
      }, 300);
    };
    for (const control of explorer.controls) model.on(`change:${control.name}`, keep);
    keep();
    const el = document.createElement("div");
    explorer.render({ model, el });
    place.replaceChildren(el);
    for (const still of place.closest(".cell_output")?.querySelectorAll("img") ?? []) {
      still.classList.add("fmx-still");
      still.loading = "eager"; // print shows it, and does not wait
    }
    if (Object.keys(given).length) place.scrollIntoView();
  }

  const mountAll = () => document.querySelectorAll("[data-explorer]").forEach(mount);
  document.addEventListener("DOMContentLoaded", mountAll);
  return {
    fromAddress,
    define(name, explorer) {
      explorers[name] = explorer;
      if (document.readyState !== "loading") mountAll();
    },
  };
})();
