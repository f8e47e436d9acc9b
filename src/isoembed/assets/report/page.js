"use strict";
// Shows what Python computed.  Text from the data goes in as text (textContent), never as HTML.
(() => {
  const { data, plots, drawn, layoutOf, own } = page;
  const at = (id) => document.getElementById(id);
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const pairs = (list, rows) =>
    list.replaceChildren(...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));

  // ---- the answer ---------------------------------------------------------------------------------------------------
  let stop = null;
  own.shapes = (name) => name !== "frontier" || !stop ? [] : [{
    type: "line", x0: stop.flop, x1: stop.flop, yref: "paper", y0: 0, y1: 1,
    line: { color: "#E69F00", width: 3, dash: "dash" },
  }];
  own.click = openRun;
  const slider = at("budget");
  const showCost = () => {
    at("cost").textContent = stop.devices[at("device").value].map((row) => row.join(": ")).join("\n");
  };
  const showStop = () => {
    stop = data.stops[Number(slider.value)];
    slider.setAttribute("aria-valuetext", stop.budget);
    at("budget-text").textContent = stop.budget;
    at("headline").textContent = stop.headline;
    at("sentence").textContent = stop.sentence;
    at("held").textContent = stop.held;
    at("predicted").textContent = stop.predicted;
    at("reach").textContent = stop.reach;
    at("reach").parentElement.classList.toggle("warning", stop.beyond);
    at("measured").textContent = stop.measured || "no run of this model and method was measured";
    showCost();
    at("sure").replaceChildren(...stop.sure.map(([name, share]) => {
      const bar = element("div", undefined, { class: "bar" });
      const box = element("span");
      const fill = element("i");
      fill.style.width = `${100 * share}%`;
      box.append(fill);
      bar.append(element("span", name), box, element("span", share.toFixed(3)));
      return bar;
    }));
    at("others").tBodies[0].replaceChildren(...stop.others.map((row) => {
      const line = element("tr");
      line.append(...row.map((cell) => element("td", cell)));
      return line;
    }));
    at("warnings").replaceChildren(...stop.warnings.map((text) => element("li", text)));
    at("cautions").hidden = stop.warnings.length === 0;
    at("cautions").querySelector("summary").textContent = stop.cautions;
    pairs(at("details"), stop.details);
    const frontier = plots.find((place) => place.dataset.figure === "frontier");
    if (frontier && drawn.has(frontier)) Plotly.relayout(frontier, { shapes: layoutOf("frontier").shapes });
  };
  if (slider) {
    slider.addEventListener("input", showStop);
    at("device").addEventListener("change", showCost);
    showStop();
  }

  // ---- runs ---------------------------------------------------------------------------------------------------------
  const show = {
    si: (value) => {
      for (const [scale, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
        if (Math.abs(value) >= scale) return Number((value / scale).toPrecision(3)) + prefix;
      }
      return String(Number(value.toPrecision(3)));
    },
    power: (value) => value.toExponential(2),
    digits: (value) => String(Number(value.toPrecision(4))),
  };
  const written = (cell, column) => {
    if (cell === null) return "-";
    const how = data.columns[column][1];
    return how ? show[how](cell) : cell;
  };
  const body = at("table").tBodies[0];
  const lines = new Map(data.runs.map((run) => {
    const line = element("tr");
    line.append(...run.cells.map((cell, column) => {
      const place = element("td");
      if (column) place.textContent = written(cell, column);
      else place.append(element("button", cell, { type: "button" }));
      return place;
    }));
    line.dataset.key = run.cells[0];
    line.dataset.text = run.cells.map(written).join(" ").toLowerCase();
    return [run.cells[0], { run, line }];
  }));
  body.addEventListener("click", (event) => {
    if (event.target.tagName === "BUTTON") openRun(event.target.closest("tr").dataset.key);
  });

  function openRun(key) {
    const found = lines.get(key);
    if (!found) return;
    body.querySelectorAll(".chosen").forEach((line) => line.classList.remove("chosen"));
    found.line.classList.add("chosen");
    found.line.scrollIntoView({ block: "nearest" });
    at("run-title").textContent = `Run ${key}`;
    pairs(at("run-facts"), [
      ...found.run.cells.slice(1).map((cell, i) => [data.columns[i + 1][0], written(cell, i + 1)]),
      ...Object.entries(found.run.more),
    ]);
    at("run").showModal();
  }

  let sorted = { column: 8, down: false };
  const heads = data.columns.map(([name], column) => {
    const head = element("th", undefined, { scope: "col" });
    const button = element("button", name, { type: "button" });
    button.addEventListener("click", () => {
      sorted = { column, down: sorted.column === column && !sorted.down };
      arrange();
    });
    head.append(button);
    return head;
  });
  const headRow = element("tr");
  headRow.append(...heads);
  at("table").tHead.append(headRow);

  function arrange() {
    const { column, down } = sorted;
    const order = [...lines.values()].sort((a, b) => {
      const [x, y] = [a.run.cells[column], b.run.cells[column]];
      if (x === null || y === null) return (x === null) - (y === null);
      const before = typeof x === "number" ? x - y : x < y ? -1 : Number(x > y);
      return down ? -before : before;
    });
    body.replaceChildren(...order.map(({ line }) => line));
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
  }

  function filter() {
    const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let kept = 0;
    for (const { line } of lines.values()) {
      line.hidden = !words.every((word) => line.dataset.text.includes(word));
      kept += !line.hidden;
    }
    at("count").textContent = `${kept} of ${lines.size} runs`;
  }
  at("filter").addEventListener("input", filter);
  arrange();
  filter();
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
