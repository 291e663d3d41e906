// Loaded before the page is drawn, so that a chosen theme never flashes. Nothing else is kept in storage.
const chosen = localStorage.getItem("theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
