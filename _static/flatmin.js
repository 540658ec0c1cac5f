// Scoreboard and errata as tools: filters, their state in the address. On every page: what a link names is opened,
// and on paper everything is.
document.addEventListener("DOMContentLoaded", () => {
  "use strict";
  const form = document.querySelector("form.flatmin-filter");
  const entries = [...document.querySelectorAll("details.flatmin-entry")];
  const lists = form ? [...form.querySelectorAll("select")] : [];
  const opener = form && form.querySelector("button[type=button]");

  function filter() {
    const chosen = lists.filter((list) => list.value);
    const carries = (entry, list) => (entry.dataset[list.name] || "").split(" ").includes(list.value);
    for (const entry of entries) entry.hidden = !chosen.every((list) => carries(entry, list));
    for (const section of document.querySelectorAll("main section:has(details.flatmin-entry):not(:has(form))"))
      section.hidden = !section.querySelector("details.flatmin-entry:not([hidden])");
    const shown = entries.filter((entry) => !entry.hidden).length;
    form.querySelector("output").value = `${shown} of ${entries.length}`;
    const query = new URLSearchParams(chosen.map((list) => [list.name, list.value])).toString();
    history.replaceState(null, "", location.pathname + (query && `?${query}`) + location.hash);
  }

  function openAll(open) {
    for (const entry of entries) entry.open = open && !entry.hidden;
    opener.textContent = open ? "Close all" : "Open all";
  }

  // What the address names may be folded away, or filtered out.
  function reveal() {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { return; } // not an address that this book has written
    const target = document.getElementById(name);
    if (!target) return;
    if (form && target.closest("[hidden]")) form.reset();
    for (let node = target.closest("details"); node; node = node.parentElement.closest("details")) node.open = true;
    target.scrollIntoView();
  }

  if (form) {
    const asked = new URLSearchParams(location.search);
    for (const list of lists) {
      list.value = asked.get(list.name) || "";
      if (list.selectedIndex < 0) list.value = "";
    }
    form.hidden = false;
    form.addEventListener("change", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      for (const list of lists) list.value = "";
      filter();
    });
    opener.addEventListener("click", () => openAll(opener.textContent === "Open all"));
    filter();
  }
  reveal();
  window.addEventListener("hashchange", reveal);

  // Formulas are no tab stops, but what scrolls sideways must be reached by the keyboard.
  const scrollable = () => {
    for (const node of document.querySelectorAll("main :is(div.math, .flatmin-entry li, .cell_output .text_html)"))
      if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  };
  const drawn = window.MathJax && MathJax.startup ? MathJax.startup.promise : null;
  Promise.resolve(drawn).then(scrollable);

  // On paper nothing can be opened, only the folded code of cells stays folded; and paper is white.
  let unfolded = [];
  const root = document.documentElement;
  let theme = root.dataset.theme;
  window.addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    unfolded = [...document.querySelectorAll("main details:not([open]):not(.hide)")];
    for (const node of unfolded) node.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const node of unfolded) node.open = false;
    root.dataset.theme = theme;
  });
});
