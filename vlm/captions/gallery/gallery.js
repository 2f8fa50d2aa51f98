// A gallery of vlm caption: search over all its pages, and keys.
"use strict";

const gallery = { pieces: [], add(number, rows) { this.pieces[number] = rows; } };

(() => {
  const MOST = 200; // results shown
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const results = document.getElementById("results");
  const page = document.getElementById("page");
  const count = Number(document.body.dataset.pieces);
  let loading = null;

  // A page opened from a disk may not fetch data, but it may load scripts.
  function piece(number) {
    return new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = `search/${number}.js`;
      script.onload = script.onerror = resolve;
      document.head.append(script);
    });
  }

  function load() {
    loading ??= (async () => {
      for (let number = 0; number < count; number++) await piece(number);
    })();
    return loading;
  }

  function element(name, text, kind) {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  function figure([name, link, thumbnail, text, error]) {
    const image = thumbnail ? element("img") : element("span", "no picture", "missing");
    if (thumbnail) Object.assign(image, { src: thumbnail, alt: name, loading: "lazy" });
    const anchor = Object.assign(element("a"), { href: link });
    anchor.append(image);
    const caption = element("figcaption");
    if (text) caption.append(element("p", text));
    if (error) caption.append(element("p", error, "error"));
    caption.append(element("small", name));
    const made = element("figure");
    made.append(anchor, caption);
    return made;
  }

  async function show() {
    const typed = search.value.trim();
    page.hidden = Boolean(typed);
    results.hidden = !typed;
    if (!typed) {
      found.textContent = "";
      return;
    }
    found.textContent = "Searching …";
    await load();
    if (search.value.trim() !== typed) return; // more was typed in the meantime
    const words = typed.toLowerCase().split(/\s+/);
    const hits = gallery.pieces.flat().filter(([name, , , text, error]) => {
      const all = `${name}\n${text}\n${error}`.toLowerCase();
      return words.every((word) => all.includes(word));
    });
    const grid = element("div", "", "pictures");
    grid.append(...hits.slice(0, MOST).map(figure));
    results.replaceChildren(grid);
    const more = hits.length > MOST ? `, the first ${MOST} of them here` : "";
    found.textContent = `${hits.length} found${more}`;
  }

  search.addEventListener("focus", load);
  search.addEventListener("input", show);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") {
      search.value = "";
      search.blur();
      show();
    } else if (document.activeElement !== search) {
      const link = { ArrowLeft: "a[rel=prev]", ArrowRight: "a[rel=next]" }[event.key];
      if (event.key === "/") {
        event.preventDefault();
        search.focus();
      } else if (link && !page.hidden) {
        document.querySelector(link)?.click();
      }
    }
  });
  show(); // the browser may have kept what was typed
})();
