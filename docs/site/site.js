"use strict";
// A table that is wider than its box scrolls in it; the keyboard reaches it too.
function reachTables() {
  for (const box of document.querySelectorAll(".pst-scrollable-table-container")) {
    if (box.scrollWidth <= box.clientWidth) continue;
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "table");
  }
}

addEventListener("DOMContentLoaded", reachTables);
addEventListener("load", reachTables); // pictures in a table have their width now
