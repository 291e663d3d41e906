// What all pages are made of.

import { html, useCallback, useEffect, useRef, useState } from "./preact.js";
import { Unreachable } from "./api.js";
import { ago, moment } from "./format.js";
import { navigate, withQuery } from "./router.js";

export const FINAL = ["succeeded", "failed", "cancelled"];

export const AGAIN = 3000; // after so long what may pass is tried again

// Loads at once, again whenever `deps` change, and every `every` milliseconds while the page can be seen; for as long
// as the service cannot be reached in any case.
export function useLoaded(load, deps, every = 0) {
  const [state, setState] = useState({ data: null, error: null, loading: true });
  const [asked, setAsked] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    let timer;
    setState((before) => ({ ...before, loading: true }));
    const run = async () => {
      let pause = every;
      try {
        const data = await load(controller.signal);
        if (!controller.signal.aborted) setState({ data, error: null, loading: false });
      } catch (error) {
        if (error instanceof Unreachable) {
          error.message += " This page tries again by itself.";
          pause ||= AGAIN;
        }
        if (!controller.signal.aborted) setState((before) => ({ data: before.data, error, loading: false }));
      }
      later(pause);
    };
    const later = (pause) => {
      if (pause && !controller.signal.aborted) timer = setTimeout(() => (document.hidden ? later(pause) : run()), pause);
    };
    run();
    return () => { controller.abort(); clearTimeout(timer); };
  }, [...deps, asked]);
  const again = useCallback(() => setAsked((count) => count + 1), []);
  return { ...state, again };
}

export const State = ({ state }) => html`<span class="state ${state}"><span class="dot" aria-hidden="true"></span>${state}</span>`;

export const Verdict = ({ verdict }) => verdict && html`<span class="verdict ${verdict}">${verdict === "accepted" ? "✓" : "✗"} ${verdict}</span>`;

export const When = ({ at }) => (at ? html`<time dateTime=${at} title=${moment(at)}>${ago(at)}</time>` : "–");

export const Progress = ({ value, label }) => html`<progress max="1" value=${value} aria-label=${label}></progress>`;

// Text with `code` in it, as the API writes it.
export const Text = ({ text }) => (text ?? "").split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));

// Whether the same request may be answered otherwise a moment later. What is refused for what it is stays refused; all
// else passes: no connection or one that breaks off, a service that fails, and what came too slowly or too often.
export const mayPass = ({ status }) => status === undefined || status >= 500 || status === 408 || status === 429;

export function Problem({ error, again }) {
  if (!error) return null;
  const errors = error.problem?.errors ?? [];
  return html`<div class="problem" role="alert">
    <strong>${error.title ?? "Something went wrong on this page"}</strong>
    ${errors.length === 0 ? html`<p><${Text} text=${error.message} /></p>` : html`<ul>${errors.map((one) => html`<li><code>${one.pointer ?? one.parameter ?? ""}</code> <${Text} text=${one.message} /></li>`)}</ul>`}
    ${again && mayPass(error) && html`<button type="button" onClick=${again}>Try again</button>`}
  </div>`;
}

export const Loading = ({ lines = 4, label = "Loading" }) => html`<div class="skeleton" role="status" aria-label=${label}>
  ${Array.from({ length: lines }, (_, index) => html`<span key=${index}></span>`)}</div>`;

// Before a page has anything to show, or where it cannot be had. It has a heading all the same, as every page has.
export const Waiting = ({ title, error, again, lines, label }) => html`<div class="title"><h1 class=${error ? "" : "sr"}>${title}</h1></div>
  ${error ? html`<${Problem} error=${error} again=${again} />` : html`<${Loading} lines=${lines} label=${label} />`}`;

export const Empty = ({ title, children }) => html`<div class="empty">
  <svg viewBox="0 0 48 60" width="48" height="60" aria-hidden="true"><path d="M24 3C13 3 4 21 4 36a20 21 0 0 0 40 0C44 21 35 3 24 3Z"/><path d="M14 32l5-4 5 4 5-4 5 4"/></svg>
  <h2>${title}</h2>${children}</div>`;

async function toClipboard(text, button) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // A page that came by plain HTTP from another machine is given none, but what is selected on it can be copied.
  const field = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
  button.after(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  button.focus();
}

export function Copy({ text, label = "Copy" }) {
  const [done, setDone] = useState(false);
  const copy = async (event) => {
    await toClipboard(text, event.currentTarget);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class="quiet" onClick=${copy} aria-live="polite">${done ? "Copied" : label}</button>`;
}

export const Code = ({ text, label }) => html`<div class="code">
  <pre tabindex="0" role="region" aria-label=${label}><code>${text}</code></pre><${Copy} text=${text} /></div>`;

// One of several forms of the same thing, as tabs that arrow keys move between.
export function Tabs({ label, tabs }) {
  const [chosen, setChosen] = useState(0);
  const list = useRef();
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (chosen + step + tabs.length) % tabs.length;
    setChosen(next);
    list.current.children[next].focus();
  };
  return html`<div class="tabs"><div role="tablist" aria-label=${label} ref=${list} onKeyDown=${move}>
    ${tabs.map(([name], index) => html`<button key=${name} type="button" role="tab" aria-selected=${String(index === chosen)}
      tabindex=${index === chosen ? 0 : -1} onClick=${() => setChosen(index)}>${name}</button>`)}</div>
    <div role="tabpanel" aria-label=${tabs[chosen][0]}>${tabs[chosen][1]}</div></div>`;
}

// A question that has to be answered first; `ask({title, text, yes})` resolves to true or false.
export function useConfirm() {
  const [question, setQuestion] = useState(null);
  const dialog = useRef();
  useEffect(() => { if (question) dialog.current.showModal(); }, [question]);
  const answer = (value) => {
    dialog.current.close(); // gives the focus back to what had it, as no dialog does that is taken off the page
    question.resolve(value);
    setQuestion(null);
  };
  const ask = (what) => new Promise((resolve) => setQuestion({ ...what, resolve }));
  const element = question && html`<dialog ref=${dialog} aria-labelledby="question" onCancel=${() => answer(false)}>
    <h2 id="question">${question.title}</h2><p>${question.text}</p>
    <div class="actions"><button type="button" onClick=${() => answer(false)}>Go back</button>
      <button type="button" class="danger" onClick=${() => answer(true)}>${question.yes}</button></div></dialog>`;
  return [element, ask];
}

// A column whose name begins with ~ shows none.
export const Table = ({ caption, head, children, label, short }) => html`<div class=${short ? "wide short" : "wide"} tabindex="0" role="region" aria-label=${label ?? caption}>
  <table>${caption && html`<caption>${caption}</caption>`}
    <thead><tr>${head.map((name) => html`<th key=${name} scope="col">${name.startsWith("~") ? html`<span class="sr">${name.slice(1)}</span>` : name}</th>`)}</tr></thead>
    <tbody>${children}</tbody></table></div>`;

// Steps through a list by `after`, of which the URL keeps all, so that one can go back. `next` is null on the last page.
export const Pages = ({ before, next }) => (before.length > 0 || next) && html`<nav class="pages" aria-label="Pages">
  <button type="button" disabled=${before.length === 0} onClick=${() => navigate(withQuery({ after: before.slice(0, -1) }))}>← Previous</button>
  <span>Page ${before.length + 1}</span>
  <button type="button" disabled=${!next} onClick=${() => navigate(withQuery({ after: [...before, next] }))}>Next →</button></nav>`;

export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  URL.revokeObjectURL(url);
}

export function useTitle(title) {
  useEffect(() => { document.title = `${title} · eggs`; }, [title]);
}
