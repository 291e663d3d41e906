// The page: who is signed in, and which view the path names.

import { html, render, useEffect, useState } from "./preact.js";
import { get, signIn, signOut, whenSignedOut } from "./api.js";
import { useLocation } from "./router.js";
import { Empty, Problem, Waiting, useLoaded, useTitle } from "./ui.js";
import { Jobs } from "./jobs.js";
import { Job } from "./job.js";
import { NewJob } from "./new.js";
import { Compare } from "./compare.js";
import { Keys } from "./keys.js";
import { Shared } from "./share.js";
import { Sweep, Sweeps } from "./sweeps.js";
import { Webhooks } from "./webhooks.js";
import { Workers } from "./workers.js";

const Egg = () => html`<svg class="egg" viewBox="0 0 48 60" width="20" height="25" aria-hidden="true">
  <path d="M24 3C13 3 4 21 4 36a20 21 0 0 0 40 0C44 21 35 3 24 3Z"/><circle cx="24" cy="37" r="10"/></svg>`;

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "system");
  const choose = (event) => {
    const next = event.target.value;
    setTheme(next);
    if (next === "system") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("theme");
    } else {
      document.documentElement.dataset.theme = next;
      localStorage.setItem("theme", next);
    }
  };
  return html`<select class="theme" aria-label="Theme" value=${theme} onChange=${choose}>
    <option value="system">System</option><option value="light">Light</option><option value="dark">Dark</option></select>`;
}

function SignIn({ entered, notice }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  useTitle("Sign in");
  useEffect(() => document.getElementById("key").focus(), []); // browsers heed autofocus once a page
  const submit = async (event) => {
    event.preventDefault();
    const field = event.target.elements.key;
    setBusy(true);
    try {
      const session = await signIn(field.value.trim());
      field.value = "";
      entered(session);
    } catch (refused) {
      setError(refused);
      setBusy(false);
      field.select();
    }
  };
  return html`<section class="sign-in card"><h1>Sign in</h1>
    ${notice && html`<p class="notice" role="status">${notice}</p>`}
    <p>With an API key. The first start of the service printed one; <code>eggs keys create</code> makes more.</p>
    <form onSubmit=${submit}>
      <div class="field"><label for="key">API key</label>
        <input id="key" name="key" type="password" autocomplete="off" spellcheck="false" placeholder="eggs_…" required /></div>
      <${Problem} error=${error} />
      <button type="submit" class="primary" disabled=${busy}>${busy ? "Signing in…" : "Sign in"}</button>
    </form>
    <p class="help">The key is exchanged for a session of twelve hours and kept nowhere in the browser.</p></section>`;
}

function Lost() {
  useTitle("Not found");
  return html`<div class="title"><h1>Not found</h1></div><${Empty} title="There is no such page"><p><a href="/jobs">All jobs</a></p><//>`;
}

function view(path, session) {
  const job = /^\/jobs\/(job_\w+)$/.exec(path);
  if (job) return html`<${Job} key=${job[1]} id=${job[1]} session=${session} />`;
  const sweep = /^\/sweeps\/(sweep_\w+)$/.exec(path);
  if (sweep) return html`<${Sweep} key=${sweep[1]} id=${sweep[1]} session=${session} />`;
  const Page = { "/": Jobs, "/jobs": Jobs, "/new": NewJob, "/compare": Compare, "/sweeps": Sweeps, "/keys": Keys, "/webhooks": Webhooks, "/workers": Workers }[path];
  return Page ? html`<${Page} session=${session} />` : html`<${Lost} />`;
}

async function current(signal) {
  try {
    return { session: await get("/v1/session", { signal }) };
  } catch (refused) {
    if (refused.status === 401) return { session: null };
    throw refused;
  }
}

function App() {
  const [session, setSession] = useState(undefined);
  const [notice, setNotice] = useState("");
  const { path } = useLocation();
  const { data, error, again } = useLoaded(current, []);
  useEffect(() => {
    whenSignedOut(() => setSession((before) => {
      if (before) setNotice("Your session is over. Sign in again to go on where you were.");
      return null;
    }));
  }, []);
  useEffect(() => { if (data) setSession(data.session); }, [data]);
  const leave = async () => {
    try {
      await signOut();
    } finally {
      setSession(null);
      setNotice("You are signed out.");
    }
  };
  const can = (scope) => session?.scopes.includes(scope);
  const link = (to, text) => html`<a href=${to} aria-current=${path === to || path.startsWith(`${to}/`) || (to === "/jobs" && path === "/") ? "page" : undefined}>${text}</a>`;
  return html`<a class="skip" href="#main" data-external>Skip to the content</a>
    <header class="top"><a class="brand" href="/jobs"><${Egg} />eggs</a>
      ${session && html`<nav aria-label="Main">${link("/jobs", "Jobs")}${link("/sweeps", "Sweeps")}${can("jobs:write") && link("/new", "New job")}
        ${can("admin") && link("/keys", "Keys")}${can("admin") && link("/webhooks", "Webhooks")}${can("admin") && link("/workers", "Workers")}</nav>`}
      <div class="corner"><a href="/docs" data-external>API</a><${Theme} />
        ${session && html`<button type="button" onClick=${leave} title=${`Project ${session.project}`}>Sign out</button>`}</div></header>
    <main id="main" tabindex="-1">
      ${path === "/shared" ? html`<${Shared}>${(id, token) => html`<${Job} id=${id} session=${null} token=${token} />`}<//>` : html`
      ${session === undefined && html`<${Waiting} title="eggs" error=${error} again=${again} label="Loading the page" />`}
      ${session === null && html`<${SignIn} notice=${notice} entered=${(made) => { setNotice(""); setSession(made); }} />`}
      ${session && view(path, session)}`}</main>`;
}

render(html`<${App} />`, document.getElementById("app"));
