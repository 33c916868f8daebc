// Labels and roles of the theme and of Sphinx that contradict what is on the page; without them a screen reader reads
// the text itself: the search button's, a folded cell's ("Show code cell source"), the list of references.
document.addEventListener("DOMContentLoaded", () => {
  for (const item of document.querySelectorAll(".search-button-field[aria-label], details > summary[aria-label]")) {
    item.removeAttribute("aria-label");
  }
  for (const item of document.querySelectorAll("nav li > details > summary")) { // an arrow without words
    item.setAttribute("aria-label", `Pages below ${item.closest("li").querySelector("a").textContent.trim()}`);
  }
  for (const list of document.querySelectorAll(".citation-list[role='list']")) {
    list.removeAttribute("role");
  }
  for (const box of document.querySelectorAll(".pst-scrollable-table-container")) {
    box.tabIndex = 0; // a wide table can be scrolled without a mouse
  }
});

// On paper the light theme, whatever is on the screen: the theme's own print style leaves dark pages dark.
let shown = "";
window.addEventListener("beforeprint", () => {
  shown = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
});
window.addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = shown;
});
