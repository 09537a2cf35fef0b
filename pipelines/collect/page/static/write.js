// Write a demonstration.
import { el } from "./dom.js";

export function writeView(state, changed) {
  const area = el("textarea", {
    id: "completion", class: "composer", rows: "8", spellcheck: "true", "aria-label": "Your answer to the prompt",
    placeholder: "Write the answer that you would want to read.",
  });
  const count = el("p", { class: "fine" });
  const tell = () => {
    const words = area.value.trim().split(/\s+/).filter(Boolean).length;
    count.textContent = words ? `${words} word${words === 1 ? "" : "s"} · the draft stays in this browser until you submit` : "";
  };
  area.value = state.completion ?? "";
  area.addEventListener("input", () => { state.completion = area.value; tell(); changed(); });
  tell();
  return {
    element: el("section", { class: "write", "aria-label": "Demonstration" }, area, count),
    focus: () => area.focus(),
    lacking: () => (state.completion?.trim() ? "" : "Write an answer, or skip."),
    key: () => false,
  };
}
