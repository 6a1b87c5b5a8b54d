// Runs before the page is drawn, so that it never flashes in the wrong colours. "auto" follows the system.
(() => {
  let theme = "auto";
  try {
    theme = localStorage.getItem("herdbook.theme") ?? "auto";
  } catch {
    theme = "auto";
  }
  document.documentElement.dataset.theme = ["light", "dark"].includes(theme) ? theme : "auto";
})();
