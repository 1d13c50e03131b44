// Every point of the loss figure says which run it is, and opens it: by mouse, touch or keyboard.
"use strict";
const points = JSON.parse(document.getElementById("points").textContent);
const tip = document.getElementById("tip");
for (const [id, runs] of Object.entries(points)) {
  const group = document.getElementById(id);
  if (!group) continue;
  const marks = group.querySelectorAll("use").length ? group.querySelectorAll("use") : group.querySelectorAll("path");
  const own = [...marks].slice(-runs.length);
  own.forEach((mark, index) => {
    const [text, link] = runs[index];
    const place = mark.getBoundingClientRect.bind(mark);
    const show = () => {
      tip.textContent = link ? text + " · click: MLflow" : text;
      tip.hidden = false;
      const box = place();
      tip.style.left = Math.max(4, Math.min(box.left + 12, innerWidth - tip.offsetWidth - 4)) + "px";
      tip.style.top = Math.max(4, box.top - tip.offsetHeight - 8) + "px";
    };
    const hide = () => { tip.hidden = true; };
    mark.classList.add("run");
    mark.setAttribute("tabindex", index ? "-1" : "0");
    mark.setAttribute("role", link ? "link" : "img");
    mark.setAttribute("aria-label", text);
    mark.addEventListener("mouseenter", show);
    mark.addEventListener("mouseleave", hide);
    mark.addEventListener("focus", show);
    mark.addEventListener("blur", hide);
    const open = () => { if (link) window.open(link, "_blank", "noopener"); };
    mark.addEventListener("click", open);
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) { event.preventDefault(); own[(index + step + own.length) % own.length].focus(); }
      if (event.key === "Enter") open();
    });
  });
}
