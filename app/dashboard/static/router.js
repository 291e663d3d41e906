// Where the page is: all of a view's state that should survive a reload is in the URL.

import { useEffect, useState } from "./preact.js";

const listeners = new Set();
const changed = () => listeners.forEach((listener) => listener());

export function navigate(url, { replace = false } = {}) {
  const before = location.pathname;
  history[replace ? "replaceState" : "pushState"](null, "", url);
  changed();
  if (location.pathname === before) return;
  window.scrollTo(0, 0);
  document.getElementById("main")?.focus({ preventScroll: true }); // for those who hear the page
}

export function useLocation() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const listener = () => redraw((count) => count + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return { path: location.pathname, query: new URLSearchParams(location.search) };
}

// The same page with some of its query changed: null and "" leave a name out.
export function withQuery(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== "") query.append(name, one);
  }
  const text = query.toString();
  return text ? `${location.pathname}?${text}` : location.pathname;
}

window.addEventListener("popstate", changed);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || event.defaultPrevented || link.dataset.external !== undefined || link.target) return;
  if (link.origin !== location.origin || link.hasAttribute("download") || link.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  navigate(link.href);
});
