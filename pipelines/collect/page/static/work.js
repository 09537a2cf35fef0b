// The work page: one item at a time, its steps in order, an answer that is sent once and never lost.
import { announce, byId, el, memory, shownText, toggleVeils } from "./dom.js";
import { newKey, post, Refused, surely } from "./api.js";
import { writeView } from "./write.js";
import { rateView } from "./rate.js";
import { rankView } from "./rank.js";

const FLAGS = JSON.parse(byId("flags").textContent);
const STUDY = byId("flags").dataset.study;
const RENEW_EVERY = 4 * 60 * 1000; // milliseconds; leases are longer
const TITLES = { demonstrate: "Write", rate: "Rate", rank: "Rank" };
const main = byId("work"), forwardButton = byId("forward"), backButton = byId("back");

let item = null, progress = null, state = null, view = null, step = 0;
let isSending = false, began = 0, wasActive = false;

// Drafts: what is not submitted yet, kept in this browser.
const draftName = () => `${STUDY}:draft:${item.assignment}`;
function changed() {
  if (!isSending) state.key = null; // another answer than the one that may have been sent
  if (!memory.write(draftName(), { ...state, step }) && state.completion) {
    notice("This browser keeps no drafts: what you write is lost if the page closes before you submit.");
  }
  tellActions();
}

function notice(text, kind = "", ...more) {
  const box = byId("notice");
  box.hidden = !text;
  box.className = `notice ${kind}`;
  box.replaceChildren(text, ...more);
}

function copyButton(text) {
  const button = el("button", { class: "plain", type: "button", onclick: async () => {
    const area = el("textarea", { class: "visually-hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    let isDone = false;
    try { await navigator.clipboard.writeText(text); isDone = true; } catch { isDone = document.execCommand("copy"); }
    area.remove();
    button.textContent = isDone ? "Copied" : "Could not be copied";
  } }, "Copy my text");
  return button;
}

function take(answer) {
  item = answer.item;
  progress = answer.progress ?? progress;
  tellProgress();
  if (!item) return finish();
  const draft = memory.read(draftName());
  state = { prompt_flags: [], key: null, ...(item.earlier ?? {}), ...(draft ?? {}) };
  step = draft ? Math.min(draft.step ?? 0, item.steps.length - 1) : 0;
  began = Date.now();
  show();
}

function tellProgress() {
  const { answered, skipped, yours } = progress;
  const done = answered + skipped;
  byId("progress").replaceChildren(
    el("b", {}, String(answered)), " answered", el("span", { class: "wide" }, skipped ? ` · ${skipped} skipped` : ""), ` · ${yours} left`,
  );
  byId("meter").style.width = `${done + yours ? (100 * done) / (done + yours) : 0}%`;
  byId("undo").disabled = progress.last === null;
  byId("you-answered").textContent = answered;
  byId("you-skipped").textContent = skipped;
}

function isVeiled(place) {
  const wish = memory.read("blur") ?? "flagged";
  return wish === "all" || (wish === "flagged" && item.veiled[place + 1]);
}

function promptCard() {
  const folded = el("details", { class: "prompt-flags" }, el("summary", {}, "About the prompt",
    el("span", { class: "count" }, state.prompt_flags.length ? ` · ${state.prompt_flags.length} ticked` : "")));
  const list = el("div", { class: "flags two" });
  for (const flag of FLAGS.prompt) {
    const box = el("input", { type: "checkbox", checked: state.prompt_flags.includes(flag.name), onchange: () => {
      const own = state.prompt_flags.filter((name) => name !== flag.name);
      state.prompt_flags = box.checked ? [...own, flag.name] : own;
      folded.querySelector(".count").textContent = state.prompt_flags.length ? ` · ${state.prompt_flags.length} ticked` : "";
      changed();
    } });
    list.append(el("label", { class: "flag", title: flag.hint }, box, el("span", {}, flag.label)));
  }
  folded.append(list);
  return el("article", { class: "prompt", "aria-label": "Prompt" },
    el("h2", { class: "eyebrow" }, "Prompt"), shownText(item.prompt, "user", isVeiled(-1)), folded);
}

function show() {
  const name = item.steps[step];
  view = name === "demonstrate" ? writeView(state, changed)
    : name === "rate" ? rateView(item, state, FLAGS.completion, isVeiled, changed)
      : rankView(item, state, isVeiled, changed);
  const steps = item.steps.length > 1 ? el("ol", { class: "steps" }, ...item.steps.map((one, at) =>
    el("li", { "aria-current": at === step ? "step" : null, class: at < step ? "past" : "" }, TITLES[one]))) : null;
  main.replaceChildren(el("h1", { class: "visually-hidden" }, `Item ${item.item}: ${TITLES[name]}`), steps ?? "", promptCard(), view.element);
  main.setAttribute("aria-busy", "false");
  main.dataset.step = name;
  byId("actions").hidden = false;
  window.scrollTo({ top: 0 });
  view.settle?.();
  view.focus();
  tellActions();
}

function tellActions() {
  const isLastStep = step === item.steps.length - 1 && (view.isLast?.() ?? true);
  forwardButton.textContent = isSending ? "Saving …" : isLastStep ? "Submit" : step < item.steps.length - 1 && (view.isLast?.() ?? true) ? `Go on: ${TITLES[item.steps[step + 1]]}` : "Next";
  forwardButton.disabled = isSending;
  backButton.hidden = step === 0 && !(view.back && state.at > 0);
  byId("lacking").textContent = isSending ? "" : view.lacking();
}

async function forward() {
  if (isSending || !item) return;
  if (view.forward?.()) return tellActions();
  const lacking = view.lacking();
  if (lacking) {
    byId("lacking").textContent = lacking;
    byId("lacking").classList.remove("nudge");
    requestAnimationFrame(() => byId("lacking").classList.add("nudge"));
    announce(lacking);
    return;
  }
  if (step < item.steps.length - 1) {
    step += 1;
    changed();
    return show();
  }
  const body = {};
  for (const name of ["completion", "ratings", "flags", "ranks", "prompt_flags"]) if (state[name] !== undefined) body[name] = state[name];
  await send("answer", body);
}

function back() {
  if (!item || isSending) return;
  if (view.back?.()) return;
  if (step > 0) { step -= 1; changed(); show(); }
}

async function send(kind, body) {
  isSending = true;
  state.key ??= newKey();
  memory.write(draftName(), { ...state, step });
  tellActions();
  const message = { assignment: item.assignment, key: state.key, kind, body, seconds: Math.round((Date.now() - began) / 100) / 10 };
  try {
    const answer = await surely("/api/answer", message, () =>
      notice("Not saved yet: the server cannot be reached. Leave this page open, it keeps trying.", "bad"));
    memory.forget(draftName());
    notice("");
    isSending = false;
    announce(kind === "skip" ? "Skipped" : "Saved");
    take(answer);
  } catch (error) {
    isSending = false;
    await stumble(error);
  }
}

// A refusal: say why, keep what was written, and go on where the study is.
async function stumble(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.reason === "not_joined") return location.assign("/");
  if (error.reason === "conflict") {
    const text = state?.completion;
    const own = item?.assignment;
    const answer = await surely("/api/next", {}, () => {});
    if (answer.item?.assignment !== own) {
      take(answer);
      notice(`Nothing was changed: ${error.message}. `, "", text ? copyButton(text) : "");
      return;
    }
  }
  notice(`Not saved: ${error.message}.`, "bad");
  if (item) tellActions();
}

async function undo() {
  if (isSending || progress?.last == null) return;
  try {
    const answer = await surely("/api/undo", { answer: progress.last }, () => notice("The server cannot be reached. Trying again.", "bad"));
    notice("");
    take(answer);
    announce("Your last answer is open again");
  } catch (error) {
    await stumble(error);
  }
}

function finish() {
  byId("actions").hidden = progress.last === null;
  for (const button of [forwardButton, backButton, byId("skip")]) button.hidden = true;
  byId("lacking").textContent = "";
  main.setAttribute("aria-busy", "false");
  const again = el("button", { class: "primary", type: "button", onclick: refresh }, "Look again");
  main.replaceChildren(el("section", { class: "finished" }, el("h1", {}, "All done"),
    el("p", { class: "lead" }, progress.left
      ? `Nothing is left for you. ${progress.left} item${progress.left === 1 ? " waits" : "s wait"} for other labelers, or ${progress.left === 1 ? "is" : "are"} at work with them.`
      : "Every item of this study is answered. Thank you."), again));
  again.focus();
}

async function refresh() {
  forwardButton.hidden = byId("skip").hidden = false;
  take(await surely("/api/next", {}, () => notice("The server cannot be reached. Trying again.", "bad")));
}

// Dialogs.
function openSkip() {
  if (!item || isSending) return;
  const dialog = byId("skip-dialog");
  dialog.querySelectorAll("[name=reason]").forEach((one) => { one.checked = false; });
  byId("skip-note").value = "";
  byId("skip-fault").hidden = true;
  dialog.showModal();
}

async function skip() {
  const reason = document.querySelector("#skip-dialog [name=reason]:checked")?.value;
  const note = byId("skip-note").value;
  const fault = !reason ? "Choose a reason." : reason === "other" && !note.trim() ? "Say which other reason." : "";
  byId("skip-fault").textContent = fault;
  byId("skip-fault").hidden = !fault;
  if (fault) return;
  byId("skip-dialog").close();
  state.key = newKey();
  await send("skip", { reason, note });
}

byId("skip-dialog").addEventListener("keydown", (event) => {
  const isNote = event.target === byId("skip-note");
  if (!isNote && /^[1-9]$/.test(event.key)) {
    const choice = byId("skip-dialog").querySelectorAll("[name=reason]")[Number(event.key) - 1];
    if (choice) { choice.checked = true; choice.focus(); }
  } else if (event.key === "Enter" && (!isNote || event.ctrlKey || event.metaKey) && event.target.value !== "cancel") {
    event.preventDefault();
    skip();
  }
});

function choose(name, value, act) {
  for (const one of document.querySelectorAll(`[name=${name}]`)) {
    one.checked = one.value === value;
    one.addEventListener("change", () => act(one.value));
  }
}
choose("blur", memory.read("blur") ?? "flagged", (value) => { memory.write("blur", value); if (item) show(); });
choose("theme", document.documentElement.dataset.theme ?? "", (value) => {
  if (value) document.documentElement.dataset.theme = value; else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("tunewell:theme", value); } catch { /* for this visit only */ }
});

// The keys work again at once, wherever the dialog was opened from.
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("close", () => { if (item && !isSending) view?.focus(); });
}
byId("help-open").addEventListener("click", () => byId("help").showModal());
byId("you-open").addEventListener("click", () => byId("you").showModal());
byId("skip").addEventListener("click", openSkip);
byId("skip-go").addEventListener("click", skip);
byId("undo").addEventListener("click", undo);
forwardButton.addEventListener("click", forward);
backButton.addEventListener("click", back);
byId("own-link").addEventListener("focus", (event) => event.target.select());
byId("leave").addEventListener("click", async () => { await post("/api/leave"); location.assign("/"); });

document.addEventListener("keydown", (event) => {
  wasActive = true;
  if (document.querySelector("dialog[open]") || event.altKey || event.isComposing) return;
  const isTyping = event.target.matches?.("textarea, input:not([type=checkbox]):not([type=radio])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); return void forward(); }
  if (event.ctrlKey || event.metaKey) return;
  if (isTyping) { if (event.key === "Escape") event.target.blur(); return; }
  const isControl = event.target.closest?.("button, a, summary") && !event.target.closest(".step, .tab");
  if (event.key === "Enter" && !isControl) { event.preventDefault(); return void forward(); }
  if (event.key === "Backspace") { event.preventDefault(); return back(); }
  if (!isSending && item && view?.key(event)) return event.preventDefault();
  const act = { s: openSkip, u: undo, v: toggleVeils, "?": () => byId("help").showModal() }[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("pointerdown", () => { wasActive = true; });
addEventListener("beforeunload", (event) => { if (isSending) event.preventDefault(); });
addEventListener("resize", () => view?.settle?.());

setInterval(async () => {
  if (!item || !wasActive || isSending) return;
  wasActive = false;
  try { await post("/api/renew", { assignment: item.assignment }); } catch (error) {
    if (error instanceof Refused && error.reason === "conflict") notice(`You can still submit, but ${error.message}.`);
  }
}, RENEW_EVERY);

refresh();
