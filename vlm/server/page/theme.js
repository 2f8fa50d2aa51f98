// Runs before the page is drawn, so that a chosen theme never flashes; without a choice the system's theme holds.
"use strict";
{
  const root = document.documentElement;
  const chosen = localStorage.getItem("rkvlm.theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
}
