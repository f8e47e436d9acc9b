"use strict";
// Draws the figures of a page from what Python computed.
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // a finger on a figure scrolls the page; a mouse zooms
  const mouse = matchMedia("(hover: hover)").matches;
  const config = {
    displaylogo: false, displayModeBar: mouse ? "hover" : false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
    responsive: true,
  };

  // ---- figures: drawn when they come near the window, so that a thousand runs open at once --------------------------
  const drawn = new Set();
  let printing = false;
  // what a page may add: shapes of a figure by its name, and what a click on a run's point does
  const own = { shapes: () => [], click: null };
  const layoutOf = (name) => {
    const { layout } = data.figures[name];
    const shapes = [...(layout.shapes || []), ...own.shapes(name)];
    return { ...layout, dragmode: mouse ? "zoom" : false, shapes, template: data.templates[dark.matches && !printing ? "dark" : "light"] };
  };
  const draw = (place) => {
    const name = place.dataset.figure;
    const first = !drawn.has(place);
    drawn.add(place);
    const done = Plotly.react(place, data.figures[name].data, layoutOf(name), config);
    if (first && own.click) place.on("plotly_click", (event) => event.points[0].customdata && own.click(event.points[0].customdata[0]));
    return done;
  };
  const plots = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
      }
    },
    { rootMargin: "400px" },
  );
  // the plotting library stands behind this script, so that the answer can be read before it is there
  addEventListener("DOMContentLoaded", () => plots.forEach((place) => near.observe(place)));
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => { printing = true; document.querySelectorAll("details").forEach((part) => { part.open = true; }); plots.forEach(draw); });
  addEventListener("afterprint", () => { printing = false; drawn.forEach(draw); });
  return { data, plots, drawn, layoutOf, own };
})();
