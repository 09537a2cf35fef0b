// Rate completions 1 to 7, one at a time, and tick flags.
import { announce, el, key, letter, shownText } from "./dom.js";

const ENDS = { 1: "worst", 7: "best" };

export function rateView(item, state, flags, isVeiled, changed) {
  const n = item.completions.length;
  state.ratings ??= Array(n).fill(null);
  state.flags ??= Array.from({ length: n }, () => []);
  state.at ??= Math.max(0, state.ratings.indexOf(null));

  const tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "Completions" });
  const panel = el("div", { class: "pair", id: "rate-panel", role: "tabpanel" });
  const element = el("section", { class: "rate", "aria-label": "Rate" }, n > 1 ? tabs : null, panel);

  function drawTabs() {
    tabs.replaceChildren(...item.completions.map((_, place) => el("button", {
      class: "tab", type: "button", role: "tab", id: `tab-${place}`, "aria-selected": String(place === state.at),
      "aria-controls": "rate-panel", tabindex: place === state.at ? "0" : "-1", onclick: () => go(place),
      "aria-label": `Completion ${letter(place)}, ${state.ratings[place] ? `rated ${state.ratings[place]}` : "not rated"}`,
    }, letter(place), el("span", { class: "tab-rating" }, state.ratings[place] ? String(state.ratings[place]) : "·"))));
  }

  function draw() {
    const place = state.at;
    drawTabs();
    const scale = el("div", { class: "scale", role: "radiogroup", "aria-label": "Overall quality, 1 to 7" });
    for (let rating = 1; rating <= 7; rating += 1) {
      scale.append(el("button", {
        class: "step", type: "button", role: "radio", "aria-checked": String(state.ratings[place] === rating),
        "data-rating": rating, onclick: () => rate(rating), "aria-label": ENDS[rating] ? `${rating}, ${ENDS[rating]}` : `${rating}`,
      }, String(rating)));
    }
    const list = el("fieldset", { class: "flags" }, el("legend", {}, "What is true of it"));
    flags.forEach((flag, index) => {
      const box = el("input", { type: "checkbox", checked: state.flags[place].includes(flag.name), value: flag.name,
        onchange: () => tick(flag.name, box.checked) });
      list.append(el("label", { class: "flag", title: flag.hint }, box, el("span", {}, flag.label), key(letter(index))));
    });
    panel.setAttribute("aria-labelledby", n > 1 ? `tab-${place}` : "");
    panel.replaceChildren(
      el("article", { class: "completion card" }, n > 1 ? el("h3", { class: "badge" }, letter(place)) : null,
        shownText(item.completions[place], "assistant", isVeiled(place))),
      el("div", { class: "judgement" },
        el("h3", {}, "Overall quality"), scale,
        el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, "worst"), el("span", {}, "best")), list),
    );
  }

  function go(place) {
    state.at = Math.max(0, Math.min(n - 1, place));
    draw();
    announce(n > 1 ? `Completion ${letter(state.at)}` : "");
    changed();
  }

  function rate(rating) {
    state.ratings[state.at] = rating;
    draw();
    element.querySelector(`[data-rating="${rating}"]`)?.focus({ preventScroll: true });
    announce(`Rated ${rating}`);
    changed();
  }

  function tick(name, isOn) {
    const own = state.flags[state.at].filter((one) => one !== name);
    state.flags[state.at] = isOn ? [...own, name] : own;
    announce(`${flags.find((flag) => flag.name === name).label}: ${isOn ? "yes" : "no"}`);
    changed();
  }

  draw();
  return {
    element,
    focus: () => element.querySelector(".step[aria-checked=true], .step")?.focus({ preventScroll: true }),
    lacking() {
      const missing = state.ratings.flatMap((rating, place) => (rating ? [] : [letter(place)]));
      return missing.length ? (n > 1 ? `Not rated yet: ${missing.join(" ")}` : "Rate it from 1 to 7.") : "";
    },
    // Enter goes through the completions before it goes on to the next step.
    forward() {
      if (!state.ratings[state.at] || state.at === n - 1) return false;
      go(state.at + 1);
      this.focus();
      window.scrollTo({ top: 0 });
      return true;
    },
    back() {
      if (state.at === 0) return false;
      go(state.at - 1);
      return true;
    },
    isLast: () => state.at === n - 1,
    key(event) {
      if (event.key >= "1" && event.key <= "7") rate(Number(event.key));
      else if (event.key === "ArrowRight") go(state.at + 1);
      else if (event.key === "ArrowLeft") go(state.at - 1);
      else {
        const index = event.key.length === 1 ? event.key.toUpperCase().charCodeAt(0) - 65 : -1;
        if (index < 0 || index >= flags.length) return false;
        const name = flags[index].name;
        tick(name, !state.flags[state.at].includes(name));
        element.querySelector(`input[value="${name}"]`).checked = state.flags[state.at].includes(name);
      }
      return true;
    },
  };
}
