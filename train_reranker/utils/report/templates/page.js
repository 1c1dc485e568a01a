"use strict";
// Filters and sorts the list of what was won and lost. Without scripts the whole list is shown, in the order of the first choice.
const list = document.getElementById("cases-list");
if (list) {
  const items = [...list.querySelectorAll(".case")];
  const [text, versus, kind] = ["filter-text", "filter-versus", "filter-kind"].map((id) => document.getElementById(id));
  const count = document.getElementById("filter-count");
  const states = new Map(items.map((item) => [item, JSON.parse(item.dataset.states)]));
  const words = new Map(items.map((item) => [item, item.textContent.toLowerCase()]));

  function sort() {
    for (const item of items) {
      const state = states.get(item)[versus.value];
      const badge = item.querySelector(".badge");
      badge.textContent = state.text;
      badge.className = `badge ${state.kind}`;
    }
    items.sort((a, b) => states.get(a)[versus.value].order - states.get(b)[versus.value].order);
    list.append(...items);
    filter();
  }

  function filter() {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const item of items) {
      const fits = !kind.value || states.get(item)[versus.value].kind === kind.value;
      item.hidden = !(fits && words.get(item).includes(wanted));
      shown += !item.hidden;
    }
    count.textContent = `${shown} of ${items.length} ${count.dataset.noun}`;
  }

  text.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  versus.addEventListener("change", sort);
  filter();

  // Open the shown ones for printing.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = items.filter((item) => !item.open && !item.hidden);
    closed.forEach((item) => (item.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((item) => (item.open = false)));
}
