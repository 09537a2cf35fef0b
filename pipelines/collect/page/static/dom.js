// Elements are made from text, never from markup: nothing that a model or a person wrote is ever parsed as HTML.

export const byId = (id) => document.getElementById(id);

export function el(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export function announce(text) {
  byId("announce").textContent = text;
}

export const letter = (place) => String.fromCharCode(65 + place);

export const key = (name) => el("kbd", { "aria-hidden": "true" }, name);

// Storage may be off, or full: the page works without it.
export const memory = {
  read(name) {
    try { return JSON.parse(localStorage.getItem(`tunewell:${name}`)); } catch { return null; }
  },
  write(name, value) {
    try { localStorage.setItem(`tunewell:${name}`, JSON.stringify(value)); return true; } catch { return false; }
  },
  forget(name) {
    try { localStorage.removeItem(`tunewell:${name}`); } catch { /* nothing to forget */ }
  },
};

// Characters that change how their neighbours look without being seen: shown by name.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff]/u;

function passage(text) {
  const piece = document.createDocumentFragment();
  for (const part of text.split(new RegExp(`(${HIDDEN.source})`, "u"))) {
    if (part.length === 1 && HIDDEN.test(part)) {
      const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      piece.append(el("span", { class: "control" }, `U+${code}`));
    } else piece.append(part);
  }
  return piece;
}

const FOLD_ABOVE = 6000; // characters
const FOLDED = 3000;

function long(text) {
  if (text.length <= FOLD_ABOVE) return passage(text);
  const piece = document.createDocumentFragment();
  const rest = el("span", { hidden: true });
  const button = el("button", {
    class: "more", type: "button",
    onclick: (event) => {
      event.stopPropagation();
      if (!rest.firstChild) rest.append(passage(text.slice(FOLDED)));
      rest.hidden = !rest.hidden;
      button.textContent = rest.hidden ? label : "Show less";
    },
  });
  const label = `Show all ${text.length.toLocaleString("en")} characters`;
  button.textContent = label;
  piece.append(passage(text.slice(0, FOLDED)), rest, "\n", button);
  return piece;
}

const ROLES = { user: "Human", assistant: "Assistant", system: "System", developer: "Developer", tool: "Tool" };

// A text, or chat messages: several of them, or one that is not the expected speaker's, with the speakers' names.
export function shownText(text, speaker, isVeiled = false) {
  const box = el("div", { class: "text" });
  if (typeof text === "string") {
    const trimmed = text.replace(/^\s+|\s+$/g, "");
    box.append(trimmed ? long(trimmed) : el("span", { class: "none" }, "(empty)"));
  } else {
    const isPlain = text.length === 1 && text[0].role === speaker;
    for (const message of text) {
      if (!isPlain) box.append(el("p", { class: "speaker" }, ROLES[message.role] ?? message.role));
      box.append(el("div", { class: isPlain ? "" : `turn ${message.role === "user" ? "" : "other"}` }, long(message.content)));
    }
  }
  return isVeiled ? veil(box) : box;
}

function veil(box) {
  box.inert = true;
  const button = el("button", { class: "veil-button", type: "button", "aria-expanded": "false" }, "Show blurred text");
  const cover = el("div", { class: "veil" }, button, box);
  cover.toggle = (shows) => {
    box.inert = !shows;
    button.setAttribute("aria-expanded", String(shows));
    button.textContent = shows ? "Blur again" : "Show blurred text";
  };
  button.addEventListener("click", (event) => { event.stopPropagation(); cover.toggle(box.inert); });
  return cover;
}

export function toggleVeils() {
  const covers = [...document.querySelectorAll(".veil")];
  const shows = covers.some((cover) => cover.querySelector(".text").inert);
  covers.forEach((cover) => cover.toggle(shows));
}
