"use strict";
// Shows the run nearest to the pointer, or the one chosen with the arrow keys, and opens it in MLflow.
// Each row of `runs` is [batch, LR, seed, value, status, phase, steps]; a marker's `data-run` is its row's number.
const runs = JSON.parse(document.getElementById("runs").textContent);
const tip = document.getElementById("tip");
const REACH = 14; // pixels: a run further away from the pointer isn't shown

function describe([batch, lr, seed, value, status, phase, steps], linked) {
  const lines = [`batch ${batch}, LR ${Number(lr.toPrecision(4))}` + (seed === null ? "" : `, seed ${seed}`)];
  lines.push(`${document.body.dataset.objective} ${value === null ? "–" : Number(value.toPrecision(5))}`);
  lines.push(`${status}, ${phase}` + (steps === null ? "" : `, ${steps} steps`));
  if (linked) lines.push("click, or Enter: open in MLflow");
  return lines.join("\n");
}

function watch(svg) {
  const marks = [...svg.querySelectorAll("[data-run]")].map((element) => ({
    run: Number(element.dataset.run),
    x: Number(element.getAttribute("x")),
    y: Number(element.getAttribute("y")),
    link: links.get(Number(element.dataset.run)),
  }));
  if (!marks.length) return;
  marks.sort((a, b) => runs[a.run][0] - runs[b.run][0] || runs[a.run][1] - runs[b.run][1]);
  const ring = svg.appendChild(document.createElementNS(svg.namespaceURI, "circle"));
  ring.setAttribute("class", "ring");
  let current = null;
  let before = null; // the run shown when a finger came down: a second tap on it opens it
  svg.tabIndex = 0;

  function show(mark) {
    current = mark;
    ring.setAttribute("r", mark ? 4 : 0);
    svg.classList.toggle("linked", Boolean(mark && mark.link));
    tip.textContent = mark ? describe(runs[mark.run], mark.link) : "";
    if (!mark) return;
    ring.setAttribute("cx", mark.x);
    ring.setAttribute("cy", mark.y);
    const { x, y } = new DOMPoint(mark.x, mark.y).matrixTransform(svg.getScreenCTM());
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 4))}px`;
    tip.style.top = `${y + height + 16 > innerHeight ? y - height - 12 : y + 12}px`;
  }

  function nearest(event) {
    const matrix = svg.getScreenCTM();
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    let best = null;
    let least = (REACH / matrix.a) ** 2;
    for (const mark of marks) {
      const distance = (mark.x - x) ** 2 + (mark.y - y) ** 2;
      if (distance < least) [best, least] = [mark, distance];
    }
    return best;
  }

  function open(mark) {
    if (mark && mark.link) window.open(mark.link, "_blank", "noopener");
  }

  svg.addEventListener("pointerdown", () => (before = current));
  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(null));
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const mark = nearest(event);
    show(mark);
    if (event.pointerType === "mouse" || mark === before) open(mark);
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (step) {
      const place = current ? marks.indexOf(current) + step : 0;
      show(marks[(place + marks.length) % marks.length]);
    } else if (event.key === "Enter") open(current);
    else if (event.key === "Escape") show(null);
    else return;
    event.preventDefault();
  });
}

const links = new Map();
for (const link of document.querySelectorAll(".chart a")) {
  links.set(Number(link.firstElementChild.dataset.run), link.href.baseVal);
  link.tabIndex = -1; // the Tab key stops once at each figure, not at each run
}
document.querySelectorAll(".chart").forEach(watch);
addEventListener("scroll", () => (tip.textContent = ""), { passive: true });
