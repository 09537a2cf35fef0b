"use strict";
// The page reads without this script; with it, flagged text can be shown, samples searched and sorted, tables sorted,
// figures copied and curves read under the pointer. It builds no markup from text and asks for nothing outside.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const say = (text) => { byId("announce").textContent = text; };

  // Theme: the system's, until the reader chooses.
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("tunewell-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => all(".js-theme").forEach((button) => button.setAttribute("aria-checked", String(isDark())));
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  system.addEventListener("change", showTheme);
  all(".js-theme").forEach((button) => button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("tunewell-theme", root.dataset.theme); } catch { /* a page from disk may not store */ }
    showTheme();
  }));
  showTheme();

  // Flagged text.
  const veil = (button, shown) => {
    const text = byId(button.getAttribute("aria-controls"));
    text.inert = !shown;
    button.setAttribute("aria-expanded", String(shown));
    button.querySelector(".veil-verb").textContent = shown ? ": hide" : ": show";
  };
  all(".js-veil").forEach((button) => button.addEventListener("click", () => {
    veil(button, button.getAttribute("aria-expanded") !== "true");
  }));
  const switches = all(".js-reveal-all");
  switches.forEach((one) => one.addEventListener("click", () => {
    const shown = one.getAttribute("aria-checked") !== "true";
    switches.forEach((other) => other.setAttribute("aria-checked", String(shown)));
    all(".js-veil").forEach((button) => veil(button, shown));
  }));

  // Samples: search, model, order.
  const search = byId("sample-search");
  if (search) {
    const holder = byId("sample-groups");
    const model = byId("sample-model");
    const order = byId("sample-sort");
    const groups = all(".group", holder).map((element) => ({
      element,
      prompt: all(".text", element.querySelector(".prompt")).map((text) => text.textContent).join("\n").toLowerCase(),
      answers: all(".answer", element).map((answer) => ({
        element: answer,
        text: answer.textContent.toLowerCase(),
        model: answer.dataset.model,
        scores: JSON.parse(answer.dataset.scores),
      })),
    }));
    const total = groups.reduce((sum, group) => sum + group.answers.length, 0);
    const update = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const [score, direction] = order && order.value ? order.value.split(",").map(Number) : [null, 1];
      let visible = 0;
      groups.forEach((group) => {
        let best = null;
        let count = 0;
        group.answers.forEach((answer) => {
          const fits = (!model.value || answer.model === model.value)
            && words.every((word) => group.prompt.includes(word) || answer.text.includes(word));
          answer.element.hidden = !fits;
          if (!fits) return;
          count += 1;
          const value = score === null ? null : answer.scores[score];
          // A group stands where its most extreme visible answer stands; without any score it goes last.
          if (value !== null && (best === null || direction * value < direction * best)) best = value;
        });
        group.element.hidden = count === 0;
        group.key = best === null ? Infinity : direction * best;
        visible += count;
      });
      const sorted = score === null ? groups : [...groups].sort((a, b) => (a.key === b.key ? 0 : a.key - b.key));
      sorted.forEach((group) => holder.append(group.element));
      byId("sample-count").textContent = visible === total
        ? `${total} answers to ${groups.length} prompts` : `${visible} of ${total} answers`;
    };
    search.addEventListener("input", update);
    model.addEventListener("change", update);
    if (order) order.addEventListener("change", update);
    update();
  }

  // Tables whose heads sort.
  all("table[data-sortable]").forEach((table) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const key = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.sort === undefined ? cell.textContent.trim().toLowerCase() : Number(cell.dataset.sort);
    };
    const compare = (a, b) => {
      if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
      return typeof a === "number" ? -1 : 1;
    };
    all("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] || "ascending";
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        const rows = [...original];
        if (next !== "none") {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          rows.sort((a, b) => sign * compare(key(a, column), key(b, column)));
        }
        body.append(...rows);
      });
    });
  });

  // Copying.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.style.position = "fixed";
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  const wireCopy = (selector, textOf) => all(selector).forEach((button) => {
    const label = button.textContent;
    button.addEventListener("click", async () => {
      await copy(textOf(byId(button.dataset.copy)));
      button.textContent = "Copied";
      say("Copied");
      setTimeout(() => { button.textContent = label; }, 1600);
    });
  });
  wireCopy(".js-copy", (data) => JSON.stringify(JSON.parse(data.textContent), null, 2));
  wireCopy(".js-copy-text", (settings) => all(".setting-group", settings).map((group) => [
    `[${group.querySelector("h3").textContent}]`,
    ...all("dl > div", group).map((row) => `${row.querySelector("dt").textContent}: ${row.querySelector("dd").textContent}`),
  ].join("\n")).join("\n\n"));

  // Reading a curve under the pointer.
  const short = (value) => (value === null || value === undefined ? "not measured" : Number(value.toPrecision(3)).toLocaleString("en"));
  all("[data-plot]").forEach((plot) => {
    const [left, right, top, bottom, first, last] = plot.dataset.plot.split(",").map(Number);
    const chart = plot.querySelector("svg");
    const data = JSON.parse(byId(`${plot.closest("figure").id}-data`).textContent);
    const box = document.createElement("div");
    const cursor = document.createElement("div");
    box.className = "readout";
    cursor.className = "cursor";
    box.hidden = cursor.hidden = true;
    for (const element of [box, cursor]) { element.setAttribute("aria-hidden", "true"); plot.append(element); }
    const leave = () => { box.hidden = cursor.hidden = true; };
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("pointermove", (event) => {
      const area = chart.getBoundingClientRect();
      const unit = area.width / chart.viewBox.baseVal.width;
      const at = (event.clientX - area.left) / unit;
      if (at < left - 4 || at > right + 4) { leave(); return; }
      const wanted = first + ((at - left) / (right - left)) * (last - first);
      const nearest = data.series.map((line) => {
        let best = -1;
        line.x.forEach((x, index) => {
          if (x !== null && (best < 0 || Math.abs(x - wanted) < Math.abs(line.x[best] - wanted))) best = index;
        });
        return best;
      });
      const x = data.series.map((line, index) => line.x[nearest[index]]).find((value) => value !== undefined && value !== null);
      if (x === undefined) { leave(); return; }
      box.replaceChildren(`${data.x_label || "x"} ${short(x)}`);
      data.series.forEach((line, index) => {
        const row = document.createElement("div");
        const value = short(line.y[nearest[index]]);
        row.textContent = data.series.length > 1 ? `${line.name}: ${value}` : value;
        box.append(row);
      });
      const position = left + ((x - first) / (last - first)) * (right - left);
      cursor.style.left = `${position * unit}px`;
      cursor.style.top = `${top * unit}px`;
      cursor.style.height = `${(bottom - top) * unit}px`;
      box.hidden = cursor.hidden = false;
      const isRight = position > (left + right) / 2;
      box.style.left = isRight ? "auto" : `${position * unit + 8}px`;
      box.style.right = isRight ? `${plot.clientWidth - position * unit + 8}px` : "auto";
      box.style.top = `${top * unit}px`;
    });
  });

  // Where the reader is.
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const sections = [...links.keys()].map(byId).filter(Boolean);
  const mark = () => {
    const passed = sections.filter((section) => section.getBoundingClientRect().top < innerHeight * 0.35);
    const current = passed.length ? passed[passed.length - 1].id : null;
    links.forEach((link, id) => { if (id === current) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); });
  };
  addEventListener("scroll", mark, { passive: true });
  mark();

  // Only a table that scrolls is a stop for the keyboard.
  const frames = all(".table-frame");
  const stops = () => frames.forEach((frame) => {
    const scrolls = frame.scrollWidth > frame.clientWidth + 1 || frame.scrollHeight > frame.clientHeight + 1;
    if (scrolls) frame.tabIndex = 0; else frame.removeAttribute("tabindex");
  });
  addEventListener("resize", stops);
  document.addEventListener("toggle", stops, true);
  stops();

  // Controls that need this script appear with it.
  all(".js-theme, .js-reveal-all, .js-samples-tools, .js-copy, .js-copy-text").forEach((element) => { element.hidden = false; });
})();
