"use strict";
// The explorer: every item of an evaluation, the answers of all models side by side. It reads the page's own JSON and
// builds elements from text only, never markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const source = byId("explorer-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const PER_PAGE = 20;
  const OPEN_ANSWERS = 1;
  const FOLD_AT = 700;
  const state = { task: 0, page: 0, columns: new Set(data.models) };
  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const task = () => data.tasks[state.task];
  const isShown = () => {
    const one = document.querySelector(".js-reveal-all");
    return one !== null && one.getAttribute("aria-checked") === "true";
  };

  // Numbers, in the words of the rest of the page.
  const digits = (value) => {
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Math.abs(value) >= 0.001 || value === 0 ? Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 4 }) : value.toExponential(1);
  };
  const figure = (value, unit) => {
    if (value === null || value === undefined) return "not scored";
    if (unit === "share") return `${digits(100 * value)}%`.replace("-", "−");
    return `${digits(value)}${unit ? ` ${unit}` : ""}`.replace("-", "−");
  };
  const note = (value) => {
    if (typeof value === "boolean") return value ? "yes" : "no";
    return typeof value === "number" ? digits(value).replace("-", "−") : String(value);
  };

  // Text, covered where it is flagged.
  let marks = 0;
  const passage = (text) => {
    if (text === "") return [make("span", "none", "(empty)")];
    if (text.length <= FOLD_AT * 1.25) return [text];
    const rest = make("details", "fold", make("summary", "", `Show all ${text.length.toLocaleString("en")} characters`), text.slice(FOLD_AT));
    return [text.slice(0, FOLD_AT), rest];
  };
  const covered = (text, flagged, what) => {
    const body = make("div", "text", ...passage(text));
    body.dir = "auto";
    if (!flagged) return body;
    marks += 1;
    body.id = `explorer-text-${marks}`;
    const verb = make("span", "veil-verb");
    const button = make("button", "veil-button", make("span", "veil-label", `Flagged ${what}`, verb));
    button.type = "button";
    button.setAttribute("aria-controls", body.id);
    const set = (shown) => {
      body.inert = !shown;
      button.setAttribute("aria-expanded", String(shown));
      verb.textContent = shown ? ": hide" : ": show";
    };
    button.addEventListener("click", () => set(body.inert));
    set(isShown());
    return make("div", "veil", button, body);
  };

  // One item.
  const notes = (pairs) => {
    const list = make("dl", "scores");
    pairs.forEach(([name, value]) => {
      const kind = name !== "true" ? "" : value === true ? "yes" : "no";
      const term = make("dt", "", name);
      const data = make("dd", kind ? `is-${kind}` : "", note(value));
      list.append(make("div", "", term, " ", data));
    });
    return list;
  };
  const answer = (one) => make("li", "", covered(one.text, one.flagged, "answer"), one.notes.length ? notes(one.notes) : null);
  const answers = (rows) => {
    if (!rows.length) return [];
    const first = make("ul", "answer-list", ...rows.slice(0, OPEN_ANSWERS).map(answer));
    if (rows.length <= OPEN_ANSWERS) return [first];
    const more = make("details", "more", make("summary", "", `${rows.length - OPEN_ANSWERS} more`));
    more.addEventListener("toggle", () => {  // built when asked for: a page may hold thousands
      if (more.open && more.childElementCount === 1) more.append(make("ul", "answer-list", ...rows.slice(OPEN_ANSWERS).map(answer)));
    });
    return [first, more];
  };
  const column = (item, model) => {
    const index = data.models.indexOf(model);
    const own = item.models[model];
    const head = make("h4", "", make("span", "dot"), model);
    head.dir = "auto";
    const box = make("section", "answer", head);
    box.style.setProperty("--tone", `var(--tone-${data.tones[index]})`);
    if (!own) {
      box.append(make("p", "fine", "This model was not asked this item."));
      return box;
    }
    const figures = task().figures;
    const place = figures.findIndex((one) => one.name === task().head);
    const value = own.values[place];
    const main = make("p", "item-figure", make("strong", "", figure(value, figures[place].unit)), ` ${figures[place].label}`);
    if (value === null) main.classList.add("is-missing");
    const rest = figures.map((one, at) => [one, own.values[at]]).filter(([one]) => one.name !== task().head);
    box.append(main, ...answers(own.answers));
    if (rest.length) {
      const list = make("dl", "item-figures");
      rest.forEach(([one, number]) => list.append(make("div", "", make("dt", "", one.label), make("dd", "", figure(number, one.unit)))));
      box.append(make("details", "more", make("summary", "", "All figures of this item"), list));
    }
    return box;
  };
  const badge = (text, kind) => make("span", `badge ${kind}`, text);
  const group = (item) => {
    const heading = make("h3", "eyebrow", `Item ${item.place}`);
    heading.id = `item-${state.task}-${item.place}`;
    const badges = make("p", "badges");
    if (item.group) badges.append(badge(item.group, ""));
    if (item.unscored) badges.append(badge("not scored", "is-missing"));
    if (item.differ) badges.append(badge("models differ", "is-telling"));
    const prompt = make("div", "prompt", make("div", "prompt-head", heading, badges), covered(item.prompt, item.flagged, "prompt"));
    const shown = data.models.filter((model) => state.columns.has(model));
    const columns = make("div", "answers", ...shown.map((model) => column(item, model)));
    const fields = make("dl", "fields");
    [...item.fields, ["id", item.id]].forEach(([name, value]) => {
      const text = make("dd", "", value);
      text.dir = "auto";
      fields.append(make("div", "", make("dt", "", name), text));
    });
    const more = make("details", "more item-more", make("summary", "", "Everything recorded for this item"), fields);
    const article = make("article", "group", prompt, columns, more);
    article.setAttribute("aria-labelledby", heading.id);
    return article;
  };

  // Which items, in which order.
  const textOf = (item) => {
    if (item.haystack === undefined) {
      const parts = [item.id, item.group, item.prompt, ...item.fields.map((field) => field[1])];
      Object.values(item.models).forEach((own) => own.answers.forEach((one) => parts.push(one.text)));
      item.haystack = parts.join("\n").toLowerCase();
    }
    return item.haystack;
  };
  const isEmpty = (item) => Object.values(item.models).some((own) => own.answers.some((one) => one.text.trim() === ""));
  const isFlagged = (item) => Object.values(item.models).some((own) => own.answers.some((one) => one.flagged));
  const FILTERS = {
    all: () => true,
    differ: (item) => item.differ,
    unscored: (item) => item.unscored,
    empty: isEmpty,
    flagged: isFlagged,
  };
  const valueOf = (item, model, at) => {
    const own = item.models[model];
    return own ? own.values[at] : null;
  };
  const sortKey = (order) => {
    const [kind, at, model, other] = order.split("|");
    if (kind === "value") return (item) => valueOf(item, data.models[Number(model)], Number(at));
    return (item) => {
      const a = valueOf(item, data.models[Number(model)], Number(at));
      const b = valueOf(item, data.models[Number(other)], Number(at));
      return a === null || b === null ? null : b - a;
    };
  };
  const chosen = () => {
    const words = byId("explorer-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = FILTERS[byId("explorer-filter").value];
    const items = task().items.filter((item) => fits(item) && words.every((word) => textOf(item).includes(word)));
    const [order, direction] = byId("explorer-sort").value.split(";");
    if (!order) return items;
    const key = sortKey(order);
    const sign = Number(direction);
    const keyed = items.map((item) => [key(item), item]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);  // what has no value goes last, either way
      return sign * (a - b);
    });
    return keyed.map(([, item]) => item);
  };

  // The controls.
  const option = (value, text) => {
    const element = make("option", "", text);
    element.value = value;
    return element;
  };
  const fillSort = () => {
    const list = [option("", "As in the file")];
    const asked = data.models.map((model, index) => index).filter((index) => task().items.some((item) => item.models[data.models[index]]));
    const figures = task().figures.map((one, at) => [one, at]).filter(([one]) => one.name === task().head || !one.name.includes("."));
    if (asked.length > 1) {
      const at = task().figures.findIndex((one) => one.name === task().head);
      asked.slice(1).forEach((index) => {
        const pair = `${data.models[asked[0]]} to ${data.models[index]}`;
        list.push(option(`change|${at}|${asked[0]}|${index};-1`, `Rose most: ${task().figures[at].label}, ${pair}`));
        list.push(option(`change|${at}|${asked[0]}|${index};1`, `Fell most: ${task().figures[at].label}, ${pair}`));
      });
    }
    figures.forEach(([one, at]) => asked.forEach((index) => {
      list.push(option(`value|${at}|${index};-1`, `${one.label}, ${data.models[index]}: highest first`));
      list.push(option(`value|${at}|${index};1`, `${one.label}, ${data.models[index]}: lowest first`));
    }));
    byId("explorer-sort").replaceChildren(...list);
  };
  const show = () => {
    const items = chosen();
    const pages = Math.max(1, Math.ceil(items.length / PER_PAGE));
    state.page = Math.min(state.page, pages - 1);
    const start = state.page * PER_PAGE;
    const part = items.slice(start, start + PER_PAGE);
    byId("explorer-items").replaceChildren(...part.map(group));
    const whole = task().items.length < task().n
      ? ` (this page holds ${task().items.length.toLocaleString("en")} of ${task().n.toLocaleString("en")}; the files hold all)` : "";
    const range = part.length ? `Items ${start + 1} to ${start + part.length}` : "No items";
    byId("explorer-count").textContent = `${range} of ${items.length.toLocaleString("en")}${whole}`;
    byId("explorer-page").textContent = `Page ${state.page + 1} of ${pages}`;
    byId("explorer-back").disabled = state.page === 0;
    byId("explorer-next").disabled = state.page >= pages - 1;
    byId("explorer-pager").hidden = pages === 1;
  };
  const restart = () => { state.page = 0; show(); };
  const turn = (step) => {
    state.page += step;
    show();
    byId("explorer").scrollIntoView();
  };
  const tasks = byId("explorer-task");
  if (tasks) tasks.addEventListener("change", () => { state.task = Number(tasks.value); fillSort(); restart(); });
  byId("explorer-search").addEventListener("input", restart);
  ["explorer-filter", "explorer-sort"].forEach((id) => byId(id).addEventListener("change", restart));
  byId("explorer-back").addEventListener("click", () => turn(-1));
  byId("explorer-next").addEventListener("click", () => turn(1));
  document.querySelectorAll(".js-column").forEach((box) => box.addEventListener("change", () => {
    if (box.checked) state.columns.add(box.value); else state.columns.delete(box.value);
    show();
  }));
  // report.js turns the switches first; what is shown anew follows them.
  document.querySelectorAll(".js-reveal-all").forEach((button) => button.addEventListener("click", show));
  fillSort();
  byId("explorer-tools").hidden = false;
  show();
})();
