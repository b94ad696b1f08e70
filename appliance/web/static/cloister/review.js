// Drawing, choosing and taking off covers on the picture, and the keys of a review.
// Without this file the same form takes numbers and reasons.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const SMALLEST = 3; // pixels of the picture: less is a click, not a box

const picture = byId("picture");
const changes = byId("changes");
const decide = byId("decide");
const list = byId("boxes");
const news = byId("status");
const why = byId("why");
const help = byId("help");

document.querySelectorAll("[data-scripted]").forEach((part) => { part.hidden = false; });
const say = (text) => { news.textContent = text; };
const size = { width: Number(picture.dataset.width), height: Number(picture.dataset.height) };

// Choosing a cover: on the picture or in the list.
let chosen = null;
const itemOf = (id) => list?.querySelector(`[data-item="${id}"]`);
const shapeOf = (id) => picture.querySelector(`[data-box="${id}"]`);
const choose = (id, { focus = true } = {}) => {
  document.querySelectorAll(".chosen-box").forEach((part) => part.classList.remove("chosen-box"));
  chosen = id;
  if (id === null) return;
  shapeOf(id)?.classList.add("chosen-box");
  itemOf(id)?.classList.add("chosen-box");
  if (focus) itemOf(id)?.querySelector(".pick")?.focus();
};

const isChanged = () =>
  changes !== null &&
  (changes.querySelector("input[name=box]") !== null ||
    [...changes.querySelectorAll("select[name^=remove-]")].some((select) => select.value));
const refresh = () => {
  if (!changes) return;
  changes.querySelectorAll("select[name^=remove-]").forEach((select) => {
    shapeOf(select.name.slice("remove-".length))?.classList.toggle("off", select.value !== "");
  });
  const release = byId("release");
  if (release) release.disabled = isChanged();
  byId("cover-again").classList.toggle("quiet", !isChanged());
};
changes?.addEventListener("change", refresh);
list?.addEventListener("focusin", (event) => {
  const item = event.target.closest("[data-item]");
  if (item) choose(item.dataset.item, { focus: false });
});

// Taking one off asks why; one that was only just drawn is simply forgotten.
const takeOff = () => {
  const item = chosen === null ? null : itemOf(chosen);
  if (!item) { say("Choose a cover first: click it, or go there with Tab."); return; }
  if (item.dataset.new !== undefined) {
    shapeOf(chosen)?.remove();
    item.remove();
    chosen = null;
    refresh();
    say("The new box is gone.");
    return;
  }
  why.returnValue = "";
  why.showModal();
};
why.addEventListener("close", () => {
  const select = chosen === null ? null : itemOf(chosen)?.querySelector("select");
  if (!select) return;
  select.value = why.returnValue;
  refresh();
  say(select.value ? "Marked. Cover again to see the picture without this cover." : "It stays covered.");
  choose(chosen);
});
why.addEventListener("keydown", (event) => {
  const choice = why.querySelectorAll(".choices button[value]:not([value=''])")[Number(event.key) - 1];
  if (/^[1-9]$/.test(event.key) && choice) { event.preventDefault(); choice.click(); }
});

// Drawing.
let drawn = 0;
const names = { face: "Face", text: "Writing", code: "Code" };
const add = (kind, x, y, w, h) => {
  drawn += 1;
  const id = `new-${drawn}`;
  const shape = document.createElementNS(SVG, "rect");
  Object.entries({ x, y, width: w, height: h, class: `box ${kind} reviewer new`, "data-box": id })
    .forEach(([name, value]) => shape.setAttribute(name, value));
  picture.append(shape);
  const item = document.createElement("li");
  item.dataset.item = id;
  item.dataset.new = "";
  const pick = document.createElement("button");
  pick.type = "button";
  pick.className = "quiet pick";
  pick.textContent = `New: ${names[kind].toLowerCase()} ${x}, ${y}, ${w} × ${h}`;
  const value = document.createElement("input");
  value.type = "hidden";
  value.name = "box";
  value.value = `${kind} ${x} ${y} ${w} ${h}`;
  item.append(pick, value);
  list.querySelector(".none")?.remove();
  list.append(item);
  refresh();
  choose(id);
  say("Drawn. Cover again to see it covered.");
};

const clamp = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
const pointOf = (event) => {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
  return { x: clamp(at.x, size.width), y: clamp(at.y, size.height) };
};
let isDrawing = false;
const draw = (on) => {
  isDrawing = on;
  picture.classList.toggle("drawing", on);
  byId("draw-mode")?.setAttribute("aria-pressed", String(on));
  if (on) { say("Drag over the picture, or type the place in pixels."); byId("draw-x").focus(); }
};
byId("draw-mode")?.addEventListener("click", () => draw(!isDrawing));
byId("add-box")?.addEventListener("click", () => {
  const fields = ["x", "y", "width", "height"].map((name) => changes.elements[name]);
  const [x, y, w, h] = fields.map((field) => (field.value === "" ? NaN : Math.round(Number(field.value))));
  const [left, top] = [clamp(x, size.width), clamp(y, size.height)];
  const [right, bottom] = [clamp(x + w, size.width), clamp(y + h, size.height)];
  if (!(right > left && bottom > top)) { say("The box lies beyond the picture."); return; }
  fields.forEach((field) => { field.value = ""; });
  add(changes.elements.kind.value, left, top, right - left, bottom - top);
});

let start = null;
let ghost = null;
const forget = () => { ghost?.remove(); start = ghost = null; };
const place = (shape, a, b) => {
  const box = [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(a.x - b.x), Math.abs(a.y - b.y)];
  ["x", "y", "width", "height"].forEach((name, at) => shape.setAttribute(name, box[at]));
  return box;
};
// A finger scrolls the page unless drawing was asked for; a mouse draws at once.
picture.addEventListener("pointerdown", (event) => {
  if (!changes || event.button !== 0 || (event.pointerType === "touch" && !isDrawing)) return;
  event.preventDefault();
  picture.setPointerCapture(event.pointerId);
  start = { ...pointOf(event), on: event.target.closest("[data-box]")?.dataset.box ?? null };
  ghost = document.createElementNS(SVG, "rect");
  ghost.setAttribute("class", `box reviewer new ${changes.elements.kind.value}`);
  picture.append(ghost);
});
picture.addEventListener("pointermove", (event) => { if (start) place(ghost, start, pointOf(event)); });
picture.addEventListener("pointercancel", forget);
picture.addEventListener("pointerup", (event) => {
  if (!start) return;
  const [x, y, w, h] = place(ghost, start, pointOf(event));
  const { on } = start;
  forget();
  if (w >= SMALLEST && h >= SMALLEST) {
    add(changes.elements.kind.value, x, y, w, h);
    draw(false);
  } else {
    choose(on);
  }
});

// Deciding once: a key held down or a double click sends one answer.
[changes, decide].forEach((form) => form?.addEventListener("submit", (event) => {
  if (form.dataset.sent !== undefined) event.preventDefault();
  form.dataset.sent = "";
}));
window.addEventListener("pageshow", () => {
  [changes, decide].forEach((form) => { if (form) delete form.dataset.sent; });
  refresh();
});

const press = (id) => () => {
  const button = byId(id);
  if (button?.disabled) say("There are changes: cover again first, and look at the result.");
  else button?.click();
};
const keys = {
  j: () => (byId("next") ? byId("next").click() : say("This is the last image.")),
  k: () => (byId("previous") ? byId("previous").click() : say("This is the first image.")),
  n: () => changes && draw(!isDrawing),
  Delete: takeOff,
  Backspace: takeOff,
  c: () => (isChanged() ? changes.requestSubmit(byId("cover-again")) : say("Nothing is changed.")),
  r: press("release"),
  x: press("reject"),
  "?": () => help.showModal(),
  Escape: () => { forget(); draw(false); choose(null); },
};
byId("help-button").addEventListener("click", keys["?"]);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (why.open || help.open || isTyping(event.target) || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
refresh();
