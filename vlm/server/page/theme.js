// Light or dark: what was chosen, else what the system says. Runs before the page is drawn, so that nothing flashes.
"use strict";
{
  const NAME = "rkvlm.theme";
  const root = document.documentElement;

  // Where the browser's storage is switched off, even looking at it is an error; the choice then holds for this visit.
  const attempt = (work) => {
    try {
      return work();
    } catch {
      return null;
    }
  };

  const chosen = attempt(() => localStorage.getItem(NAME));
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme")) return;
    const now = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    attempt(() => localStorage.setItem(NAME, root.dataset.theme));
  });
}
