// What the pages do beyond HTML: keys, dropping or pasting an image, and the viewer.
// Every page works without this file.
"use strict";

const byId = (id) => document.getElementById(id);
const hits = () => [...document.querySelectorAll("#grid .hit")];
const isTyping = (target) => target.closest("input:not([type=checkbox]), select, textarea") !== null;

const columns = (links) => {
  const top = links[0].offsetTop;
  const next = links.findIndex((link) => link.offsetTop > top);
  return next < 0 ? links.length : next;
};

const focusHit = (step) => {
  const links = hits();
  if (!links.length) return false;
  const at = links.indexOf(document.activeElement);
  const to = at < 0 ? 0 : Math.min(Math.max(at + step(links), 0), links.length - 1);
  links[to].focus();
  links[to].scrollIntoView({ block: "nearest" });
  return true;
};

const steps = {
  ArrowRight: () => 1,
  ArrowLeft: () => -1,
  ArrowDown: columns,
  ArrowUp: (links) => -columns(links),
  j: () => 1,
  k: () => -1,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  if (byId("viewer")?.open) return;
  const words = byId("id_words");
  if (event.key === "/" && words) {
    event.preventDefault();
    words.focus();
    words.select();
    return;
  }
  const isArrow = event.key.startsWith("Arrow");
  if (isArrow && !hits().includes(document.activeElement)) return; // the page scrolls
  if (steps[event.key] && focusHit(steps[event.key])) event.preventDefault();
});

// Where one goes on from: the first result of a page that came with some, or the search box.
(hits()[0] ?? byId("id_words"))?.focus();

// From the search box, the arrow down leads into the results.
byId("id_words")?.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && focusHit(() => 0)) event.preventDefault();
});

const viewer = byId("viewer");
const close = () => viewer?.open && viewer.close();

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "viewer-image" && !viewer.open) viewer.showModal();
  if (event.detail.target.id === "viewer-image") {
    viewer.querySelectorAll("[data-scripted]").forEach((part) => { part.hidden = false; });
  }
  if (event.detail.target.id === "results") {
    close();
    window.scrollTo({ top: 0 });
    hits()[0]?.focus({ preventScroll: true });
  }
});
document.addEventListener("htmx:sendError", () => {
  byId("results")?.replaceChildren("The appliance does not answer. Please try again shortly.");
});
viewer?.addEventListener("close", () => byId("viewer-image").replaceChildren());

// Drawing a rectangle on a picture writes its place, in the picture's own pixels, into a field.
const sizeOf = (picture) => ({
  width: Number(picture.getAttribute("width")) || picture.naturalWidth,
  height: Number(picture.getAttribute("height")) || picture.naturalHeight,
});
const SMALLEST_PART = 16; // pixels of the picture: less is a click, or too little to search for
let drawing = null;
const pointOn = (picture, event) => {
  const at = picture.getBoundingClientRect();
  const size = sizeOf(picture);
  const share = (from, length) => Math.min(Math.max(from / length, 0), 1);
  return {
    x: Math.round(share(event.clientX - at.left, at.width) * size.width),
    y: Math.round(share(event.clientY - at.top, at.height) * size.height),
  };
};
const outline = (canvas, { x, y, w, h }) => {
  const picture = canvas.querySelector("img");
  const mark = canvas.querySelector(".drawn");
  const [size, at] = [sizeOf(picture), picture.getBoundingClientRect()];
  const frame = canvas.getBoundingClientRect();
  const [wide, high] = [at.width / size.width, at.height / size.height];
  mark.hidden = false;
  mark.style.left = `${at.left - frame.left + x * wide}px`;
  mark.style.top = `${at.top - frame.top + y * high}px`;
  mark.style.width = `${w * wide}px`;
  mark.style.height = `${h * high}px`;
};
document.addEventListener("pointerdown", (event) => {
  const canvas = event.target.closest(".canvas[data-region]");
  if (!canvas || event.button !== 0) return;
  event.preventDefault();
  drawing = { canvas, from: pointOn(canvas.querySelector("img"), event) };
});
document.addEventListener("pointermove", (event) => {
  if (!drawing) return;
  const to = pointOn(drawing.canvas.querySelector("img"), event);
  const { from } = drawing;
  drawing.part = {
    x: Math.min(from.x, to.x), y: Math.min(from.y, to.y),
    w: Math.abs(to.x - from.x), h: Math.abs(to.y - from.y),
  };
  outline(drawing.canvas, drawing.part);
});
document.addEventListener("pointerup", () => {
  if (!drawing) return;
  const { canvas, part } = drawing;
  drawing = null;
  const place = byId(canvas.dataset.region);
  const isDrawn = part !== undefined && Math.min(part.w, part.h) >= SMALLEST_PART;
  place.value = isDrawn ? `${part.x}, ${part.y}, ${part.w}, ${part.h}` : "";
  canvas.querySelector(".drawn").hidden = !isDrawn;
});

// More like this and less like it exclude each other.
document.addEventListener("change", (event) => {
  const judge = event.target.closest(".judge");
  if (!judge || !event.target.checked) return;
  judge.querySelectorAll("input").forEach((box) => { if (box !== event.target) box.checked = false; });
});

const field = byId("id_image");
if (field) {
  const drop = byId("drop");
  const chosen = byId("chosen");
  const picture = byId("chosen-picture");

  const show = () => {
    const file = field.files[0];
    if (picture.src) URL.revokeObjectURL(picture.src);
    picture.removeAttribute("src");
    chosen.hidden = !file;
    byId("chosen-name").textContent = file ? file.name : "";
    byId("id_region").value = "";
    byId("cutter").querySelector(".drawn").hidden = true;
    byId("cutter-picture").removeAttribute("src");
    byId("cut").hidden = !(file && file.type.startsWith("image/"));
    if (byId("cut").hidden) return;
    picture.src = byId("cutter-picture").src = URL.createObjectURL(file);
  };
  byId("cut").addEventListener("click", () => byId("cutter").showModal());
  const take = (files) => {
    if (!files.length) return;
    const carrier = new DataTransfer();
    carrier.items.add(files[0]);
    field.files = carrier.files;
    show();
    byId("search-button").focus();
  };

  document.querySelectorAll("[data-scripted]").forEach((part) => { part.hidden = false; });
  field.addEventListener("change", show);
  byId("unchoose").addEventListener("click", () => { field.value = ""; show(); field.focus(); });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
}
