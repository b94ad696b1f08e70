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
    if (file && file.type.startsWith("image/")) picture.src = URL.createObjectURL(file);
  };
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
