// Rank completions by drag, by touch and by keyboard; completions that share a rank are tied.
import { announce, el, letter, shownText } from "./dom.js";

export function rankView(item, state, isVeiled, changed) {
  const n = item.completions.length;
  state.ranks ??= Array(n).fill(null);
  const open = new Set(); // cards whose whole text is shown
  const element = el("section", { class: "rank", "aria-label": "Rank" });
  const slots = new Map(); // rank, or null for the tray, to its element
  const cards = item.completions.map((_, place) => card(place));

  for (const rank of [null, ...Array.from({ length: n }, (_, at) => at + 1)]) {
    const holder = el("div", { class: "slot-cards" });
    const name = rank === null ? "To rank" : String(rank);
    const way = matchMedia("(pointer: coarse)").matches ? "Drag by the dots, or tap a rank" : "Drag, or press its rank";
    const note = rank === null ? `${way}: 1 is best, ${n} worst, the same rank twice a tie.` : rank === 1 ? "best" : rank === n ? "worst" : "";
    const slot = el("div", { class: rank === null ? "slot tray" : "slot", role: "group",
      "aria-label": rank === null ? "Not ranked yet" : `Rank ${rank}${note && `, ${note}`}`, "data-rank": rank ?? "" },
    el("div", { class: "slot-name", "aria-hidden": "true" }, name, note && el("small", {}, note)), holder);
    slots.set(rank, { slot, holder });
    element.append(slot);
  }

  function card(place) {
    const text = shownText(item.completions[place], "assistant", isVeiled(place));
    const more = el("button", { class: "more", type: "button", onclick: () => {
      if (open.has(place)) open.delete(place); else open.add(place);
      settle();
    } }, "Read all");
    const rating = state.ratings?.[place];
    const box = el("article", { class: "card rankable", tabindex: "0", id: `card-${place}` },
      el("header", { class: "grip" }, el("span", { class: "badge" }, letter(place)),
        rating ? el("span", { class: "rated" }, `rated ${rating}`) : null, el("span", { class: "dots", "aria-hidden": "true" }, "⠿")),
      el("div", { class: "clamp" }, text), more, taps(place));
    box.addEventListener("pointerdown", (event) => grab(event, place, box));
    return box;
  }

  // Where there is no keyboard and the slots are off the screen; hidden elsewhere.
  function taps(place) {
    return el("div", { class: "taps", role: "group", "aria-label": `Rank of ${letter(place)}` }, ...Array.from({ length: n }, (_, at) =>
      el("button", { type: "button", class: "tap", "aria-label": `Rank ${letter(place)} ${at + 1}`, onclick: () => put(place, at + 1, true) }, String(at + 1))));
  }

  function draw() {
    for (const [rank, { slot, holder }] of slots) {
      const own = cards.filter((_, place) => state.ranks[place] === rank);
      // Moving an element takes its focus away: only what is not there yet is moved.
      if (own.length !== holder.children.length || own.some((one, at) => holder.children[at] !== one)) holder.replaceChildren(...own);
      slot.classList.toggle("empty", own.length === 0);
      slot.classList.toggle("tied", rank !== null && own.length > 1);
    }
    slots.get(null).slot.hidden = !state.ranks.includes(null);
    cards.forEach((one, place) => {
      one.setAttribute("aria-label", `Completion ${letter(place)}, ${words(place)}`);
      one.querySelectorAll(".tap").forEach((tap, at) => tap.setAttribute("aria-pressed", String(state.ranks[place] === at + 1)));
    });
    settle();
  }

  function settle() {
    cards.forEach((one, place) => {
      const clamp = one.querySelector(".clamp");
      clamp.classList.toggle("open", open.has(place));
      const more = one.querySelector(":scope > .more");
      more.hidden = !open.has(place) && clamp.scrollHeight <= clamp.clientHeight + 4;
      more.textContent = open.has(place) ? "Show less" : "Read all";
    });
  }

  function words(place) {
    const rank = state.ranks[place];
    if (rank === null) return "not ranked";
    const tied = state.ranks.flatMap((one, other) => (one === rank && other !== place ? [letter(other)] : []));
    return `rank ${rank}${tied.length ? `, tied with ${tied.join(" and ")}` : ""}`;
  }

  function put(place, rank, goesOn) {
    state.ranks[place] = rank;
    draw();
    const next = goesOn ? state.ranks.indexOf(null) : -1;
    cards[next >= 0 ? next : place].focus({ preventScroll: false });
    announce(`${letter(place)}: ${words(place)}`);
    changed();
  }

  // Drag: the card follows the pointer, and the slot under it lights up. Works alike for mouse, pen and touch.
  function grab(event, place, box) {
    if (event.button !== 0 || event.target.closest("button, a")) return;
    if (event.pointerType !== "mouse" && !event.target.closest(".grip")) return; // elsewhere a touch scrolls
    const start = { x: event.clientX, y: event.clientY, top: scrollY };
    let isDragging = false, over = null, at = start, frame = 0;
    const target = () => {
      const hit = document.elementsFromPoint(at.x, at.y).find((one) => one.closest(".slot") && !one.closest(".dragging"));
      return hit?.closest(".slot") ?? null;
    };
    const follow = () => {
      box.style.translate = `${at.x - start.x}px ${at.y - start.y + (scrollY - start.top)}px`;
      const now = target();
      if (now !== over) { over?.classList.remove("over"); now?.classList.add("over"); over = now; }
    };
    const creep = () => { // near an edge the page scrolls under the card
      const edge = 90, speed = at.y < edge ? at.y - edge : at.y > innerHeight - edge - 60 ? at.y - innerHeight + edge + 60 : 0;
      if (speed) { scrollBy(0, speed / 6); follow(); }
      frame = requestAnimationFrame(creep);
    };
    const move = (now) => {
      at = { x: now.clientX, y: now.clientY };
      if (!isDragging && Math.hypot(at.x - start.x, at.y - start.y) < 6) return;
      if (!isDragging) {
        isDragging = true;
        getSelection()?.removeAllRanges();
        box.classList.add("dragging");
        element.classList.add("receiving");
        frame = requestAnimationFrame(creep);
      }
      now.preventDefault();
      follow();
    };
    const end = (now) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
      removeEventListener("keydown", giveUp, true);
      cancelAnimationFrame(frame);
      over?.classList.remove("over");
      box.classList.remove("dragging");
      element.classList.remove("receiving");
      box.style.translate = "";
      if (isDragging && over && now.type === "pointerup") put(place, over.dataset.rank ? Number(over.dataset.rank) : null, false);
    };
    const giveUp = (now) => { if (now.key === "Escape") { over?.classList.remove("over"); over = null; end(now); now.stopPropagation(); } };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
    addEventListener("keydown", giveUp, true);
  }

  draw();
  return {
    element,
    settle,
    focus: () => cards[Math.max(0, state.ranks.indexOf(null))].focus({ preventScroll: true }),
    lacking() {
      const missing = state.ranks.flatMap((rank, place) => (rank === null ? [letter(place)] : []));
      return missing.length ? `Not ranked yet: ${missing.join(" ")}` : "";
    },
    key(event) {
      const place = cards.findIndex((one) => one.contains(document.activeElement));
      const picked = event.key.length === 1 ? event.key.toUpperCase().charCodeAt(0) - 65 : -1;
      if (picked >= 0 && picked < n) cards[picked].focus();
      else if (place < 0) return false;
      else if (/^[1-9]$/.test(event.key) && Number(event.key) <= n) put(place, Number(event.key), true);
      else if (event.key === "0" && n >= 10) put(place, 10, true);
      else if (event.key === "ArrowUp") put(place, Math.max(1, (state.ranks[place] ?? n + 1) - 1), false);
      else if (event.key === "ArrowDown") put(place, Math.min(n, (state.ranks[place] ?? 0) + 1), false);
      else return false;
      return true;
    },
  };
}
