// The owner's page: progress and agreement, brought up to date every few seconds.
import { byId, el } from "./dom.js";

const EVERY = 4000; // milliseconds
const number = (value, digits = 0) => (value === null ? "–" : value.toFixed(digits));
const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(0)}%`);

function table(heads, rows) {
  return el("table", {}, el("thead", {}, el("tr", {}, ...heads.map(([name, kind]) => el("th", { scope: "col", class: kind ?? "" }, name)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell, at) =>
      el(at ? "td" : "th", { class: heads[at][1] ?? "", scope: at ? null : "row", "data-label": heads[at][0] }, cell))))));
}

function figure(name, value, note = "") {
  return el("div", {}, el("dt", {}, name), el("dd", {}, String(value), note && el("small", {}, note)));
}

function draw(found) {
  const done = found.items - found.left;
  byId("meter").style.width = `${found.items ? (100 * done) / found.items : 0}%`;
  byId("figures").replaceChildren(
    figure("items finished", `${done} of ${found.items}`),
    figure(found.simulated ? `answers, ${found.simulated} simulated` : "answers", found.answers),
    figure(found.overlap === 1 ? "answer per item" : "answers per item", found.overlap),
    figure("undone", found.undone),
    found.surplus ? figure("late", found.surplus, "came after their item had gone on; not exported") : "",
  );
  byId("labelers").replaceChildren(found.labelers.length ? table(
    [["Labeler"], ["Answers", "number"], ["Skips", "number"], ["Median time", "number"], ["Mean rating", "number"]],
    found.labelers.map((one) => [
      el("span", {}, one.name, one.is_simulated ? el("span", { class: "mark" }, "simulated") : ""),
      String(one.answers), String(one.skips), one.seconds === null ? "–" : `${number(one.seconds, one.seconds < 10 ? 1 : 0)} s`, number(one.mean_rating, 2),
    ])) : el("p", { class: "lead" }, "Nobody has answered yet."));
  const judged = found.agreement.filter((one) => one.n > 0);
  byId("agree-note").textContent = judged.length ? "" : found.overlap < 2
    ? "Every item is asked of one labeler. To measure agreement, start the page with --overlap 2."
    : "No item has answers of two people yet.";
  byId("agreement").replaceChildren(judged.length ? table(
    [["Judgement"], ["Alpha", "number"], ["Say the same", "number"], ["95% interval", "number"], ["Pairs", "number"]],
    judged.map((one) => [one.label, number(one.alpha, 2), share(one.agree), one.low === null ? "–" : `${share(one.low)} – ${share(one.high)}`, String(one.n)])) : "");
  byId("skips").hidden = found.skipped.length === 0;
  byId("reasons").replaceChildren(table([["Reason"], ["Skips", "number"]], found.skipped.map((one) => [one.label, String(one.n)])));
}

async function refresh() {
  try {
    const response = await fetch("/api/results");
    const found = await response.json();
    if (!response.ok) throw new Error(found.error);
    draw(found);
    byId("stale").hidden = true;
  } catch (error) {
    byId("stale").textContent = error instanceof TypeError ? "The server cannot be reached; what stands here may be old." : error.message;
    byId("stale").hidden = false;
  }
  setTimeout(refresh, document.hidden ? 4 * EVERY : EVERY);
}
refresh();
