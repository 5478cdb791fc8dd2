// The episode viewer: filters the list, walks through it, and colours tokens by their numbers.
// Without it the page shows every episode as a plain list. Text only ever enters through textContent.
"use strict";
(() => {
  const viewer = document.querySelector(".viewer");
  const bar = viewer.querySelector(".bar");
  const status = viewer.querySelector(".status");
  const more = viewer.querySelector(".more");
  const episodes = [...viewer.querySelectorAll(".episode")];
  const filters = [...bar.querySelectorAll("select")];
  const keys = { logprob: "logprobs", advantage: "advantages" };
  const PAGE = 12;
  let matching = episodes;
  let limit = PAGE;
  let current = -1;

  // A source may be narrowed by a comma: "training" holds "training, step 10".
  const fits = (found, wanted) => !wanted || found === wanted || found.startsWith(`${wanted}, `);
  const matches = (episode) => filters.every((filter) => fits(episode.dataset[filter.name], filter.value));

  function show() {
    matching = episodes.filter(matches);
    episodes.forEach((episode) => { episode.hidden = true; });
    matching.slice(0, limit).forEach((episode) => { episode.hidden = false; });
    const rest = matching.length - limit;
    more.hidden = rest <= 0;
    more.textContent = `Show ${Math.min(PAGE, rest)} more of ${rest}`;
    bar.querySelector(".count").textContent = `${matching.length} of ${episodes.length} episodes`;
    viewer.querySelector(".none").hidden = matching.length > 0;
  }

  function refilter() {
    limit = PAGE;
    current = -1;
    show();
  }

  function goTo(index) {
    if (index < 0 || index >= matching.length) return;
    matching.forEach((episode) => { episode.open = false; });
    current = index;
    if (current >= limit) {
      limit = Math.ceil((current + 1) / PAGE) * PAGE;
      show();
    }
    matching[current].open = true;
    matching[current].scrollIntoView({ block: "start" });
    matching[current].querySelector("summary").focus({ preventScroll: true });
  }

  const colouring = () => bar.querySelector("input[name=colour]:checked").value;

  function bucket(kind, value) {
    const bounds = kind === "logprob" ? [0.05, 0.2, 0.7, 1.6, 3] : [0.05, 0.4, 1, 2];
    const size = bounds.filter((bound) => Math.abs(value) > bound).length;
    const side = kind === "logprob" ? "p" : value < 0 ? "n" : "a";
    return size ? `${side}${size}` : "";
  }

  function describe(span, i) {
    const parts = [];
    if (span.logprobs) parts.push(`probability ${Math.exp(span.logprobs[i]).toFixed(3)} (log ${span.logprobs[i]})`);
    if (span.advantages) parts.push(`advantage ${span.advantages[i] > 0 ? "+" : ""}${span.advantages[i]}`);
    return parts.join(", ");
  }

  // A span keeps its first form in `plain`, so that the colours can be taken off again.
  function colour(span) {
    const text = span.querySelector(".data");
    if (!span.plain) {
      span.plain = [...text.childNodes];
      span.whole = text.textContent;
      for (const name of ["lengths", "logprobs", "advantages"]) {
        if (span.dataset[name]) span[name] = JSON.parse(span.dataset[name]);
      }
    }
    const kind = colouring();
    const values = span[keys[kind]];
    span.classList.toggle("bare", kind !== "source");
    if (!values) {
      text.replaceChildren(...span.plain);
      return;
    }
    let at = 0;
    text.replaceChildren(...span.lengths.map((length, i) => {
      const token = document.createElement("span");
      token.className = `token ${bucket(kind, values[i])}`;
      token.textContent = span.whole.slice(at, at += length);
      token.title = describe(span, i);
      return token;
    }));
  }

  function colourOpen() {
    viewer.querySelectorAll(".legend-of").forEach((legend) => { legend.hidden = legend.dataset.of !== colouring(); });
    viewer.querySelectorAll(".episode[open] .span").forEach(colour);
    status.textContent = "";
  }

  filters.forEach((filter) => filter.addEventListener("change", refilter));
  bar.querySelectorAll("input[name=colour]").forEach((input) => input.addEventListener("change", colourOpen));
  bar.querySelector(".previous").addEventListener("click", () => goTo(current < 0 ? matching.length - 1 : current - 1));
  bar.querySelector(".next").addEventListener("click", () => goTo(current + 1));
  more.addEventListener("click", () => { limit += PAGE; show(); });
  episodes.forEach((episode) => episode.addEventListener("toggle", () => {
    if (!episode.open) return;
    current = matching.indexOf(episode);
    episode.querySelectorAll(".span").forEach(colour);
  }));
  // A phone has no pointer that hovers: a tap says what the title says.
  viewer.addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (token) status.textContent = `\u201c${token.textContent}\u201d: ${token.title}`;
  });

  function openLinked() {
    const linked = document.getElementById(location.hash.slice(1));
    if (!episodes.includes(linked)) return;
    filters.forEach((filter) => { filter.value = ""; });
    refilter();
    goTo(matching.indexOf(linked));
  }

  window.addEventListener("hashchange", openLinked);
  bar.hidden = false;
  show();
  colourOpen();
  openLinked();
})();
