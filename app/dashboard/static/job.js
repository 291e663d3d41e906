// One job: live while it runs, then its report and files.

import { html, useEffect, useMemo, useState } from "./preact.js";
import { get, post } from "./api.js";
import { navigate } from "./router.js";
import { clock, duration, method, moment, number, pattern, percent, secondsOf } from "./format.js";
import { AGAIN, Code, FINAL, Loading, Problem, Progress, State, Verdict, Waiting, When, mayPass, useConfirm, useLoaded, useTitle } from "./ui.js";
import { Report } from "./report.js";
import { Files } from "./files.js";
import { Request, requestOf } from "./requests.js";
import { Links } from "./share.js";

const SHOWN = 300;
const AWAY = 15000; // how often a page that cannot be seen asks for news: its title can be seen

// Every event of a job, those to come too. All tabs of a browser share six connections to the service, which as many
// streams would hold: one is open only while its page can be seen. Where it breaks off the browser resumes it by
// itself; where it is refused, by a service that starts or whose database is away, it has to be asked for again.
function useEvents(id) {
  const path = `/v1/jobs/${id}`;
  const [events, setEvents] = useState([]);
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    let source = null;
    let last = null;
    let waiting = [];
    let timer = null;
    let retry = null;
    let away = null;
    const flush = () => {
      timer = null;
      const come = waiting;
      waiting = [];
      setEvents((before) => [...before, ...come]);
    };
    const note = (event) => {
      if (event.id <= (last?.id ?? 0)) return; // told before, as where a stream is resumed
      last = event;
      waiting.push(event);
      timer ??= setTimeout(flush, 50); // a long job's past comes at once
      if (FINAL.includes(event.state)) close();
    };
    const ask = async () => {
      const news = await get(`${path}/events?limit=100&after=${last?.id ?? 0}`).catch(() => null);
      news?.data.forEach(note);
    };
    const open = () => {
      const opened = new EventSource(`${path}/events${last ? `?after=${last.id}` : ""}`);
      source = opened;
      for (const type of ["queued", "running", "progress", "cancel_requested", ...FINAL]) opened.addEventListener(`job.${type}`, (message) => note(JSON.parse(message.data)));
      opened.onopen = () => setBroken(false);
      opened.onerror = async () => {
        setBroken(true);
        if (opened.readyState !== EventSource.CLOSED) return;
        // The stream does not say why it is refused. This does, also to the page where the session is over.
        const why = await get(path).then(() => null, (refused) => refused);
        if (source !== opened) return;
        if (!why || mayPass(why)) retry = setTimeout(open, AGAIN);
        else setBroken(false);
      };
    };
    const close = () => {
      source?.close();
      source = null;
      clearTimeout(retry);
      clearInterval(away);
    };
    const look = () => {
      close();
      if (FINAL.includes(last?.state)) return;
      if (document.hidden) away = setInterval(ask, AWAY);
      else open();
    };
    look();
    document.addEventListener("visibilitychange", look);
    return () => { document.removeEventListener("visibilitychange", look); close(); clearTimeout(timer); };
  }, [id]);
  return { events, broken };
}

// How fast blocks are pruned, by the last ones.
function throughput(events) {
  const pruned = events.filter((event) => event.stage === "prune" && event.data.block !== undefined).slice(-6);
  if (pruned.length < 2) return null;
  const seconds = (new Date(pruned.at(-1).created_at) - new Date(pruned[0].created_at)) / 1000;
  return seconds > 0 ? ((pruned.length - 1) / seconds) * 60 : null;
}

function useNow(on) {
  const [, tick] = useState(0);
  useEffect(() => {
    if (!on) return undefined;
    const timer = setInterval(() => tick((count) => count + 1), 1000);
    return () => clearInterval(timer);
  }, [on]);
}

function Live({ job, events, broken }) {
  const last = events.at(-1);
  const progress = Math.max(job.progress, last?.progress ?? 0);
  const attempt = events.findLastIndex((event) => event.type === "job.running");
  const blocks = events.findLast((event) => event.data?.blocks !== undefined)?.data.blocks;
  const done = events.findLast((event) => event.stage === "prune" && event.data?.block !== undefined)?.data.block + 1 || 0; // blocks count from 0
  const speed = throughput(events.slice(attempt + 1));
  const elapsed = secondsOf(job);
  const left = progress > 0 && elapsed ? (elapsed * (1 - progress)) / progress : null;
  const facts = job.state === "queued" ? [["Waiting for", duration((Date.now() - new Date(job.created_at)) / 1000)]]
    : [["Stage", (last?.stage ?? job.stage ?? "starting").replaceAll("_", " ")], ["Elapsed", duration(elapsed)], ["Left, about", duration(left, Math.ceil)],
      ["Blocks", blocks ? `${done} of ${blocks}` : "–"], ["Throughput", speed ? `${number(speed)} blocks/min` : "–"]];
  return html`<section class="card live"><h2>Progress</h2>
    <div class="bar"><${Progress} value=${progress} label="Progress of this job" /><strong>${percent(progress)}</strong></div>
    <p aria-live="polite" class="now">${last?.message ?? "Waiting for a worker."}${broken ? " (The stream broke off; resuming.)" : ""}</p>
    <dl class="facts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${blocks && html`<div class="blocks" role="img" aria-label=${`${done} of ${blocks} blocks are pruned`}>${Array.from({ length: blocks }, (_, index) => html`<span
      key=${index} class=${index < done ? "done" : index === done && last?.stage === "prune" ? "busy" : ""} title=${`Block ${index + 1}`}></span>`)}</div>`}</section>`;
}

function Log({ events, open }) {
  const shown = events.slice(-SHOWN).reverse();
  return html`<details class="card" open=${open}><summary><h2>Log</h2><span class="help">${events.length} events</span></summary>
    <ol class="log" tabindex="0" aria-label="Events, the last one first">${shown.map((event) => html`<li key=${event.id}><time dateTime=${event.created_at} title=${moment(event.created_at)}>${clock(event.created_at)}</time>
      <span class="stage">${(event.stage ?? event.type.replace("job.", "")).replaceAll("_", " ")}</span><span>${event.message}</span></li>`)}</ol></details>`;
}

function Push({ push }) {
  if (!push) return null;
  return html`<section class="card"><h2>Hugging Face Hub</h2>
    ${push.error ? html`<${Problem} error=${{ title: push.error.title, message: push.error.detail }} />`
    : push.url ? html`<p>Pushed to <a href=${push.url} data-external rel="noreferrer">${push.repo_id}</a>, branch ${push.revision}, commit <code>${push.commit?.slice(0, 12)}</code>.</p>`
    : html`<p>Goes to <code>${push.repo_id}</code>, branch ${push.revision}, when the job has succeeded.</p>`}</section>`;
}

// `session`: null where a link with this `token` shows the job, and nothing else can be opened.
export function Job({ id, session, token }) {
  const path = `/v1/jobs/${id}`;
  const { events, broken } = useEvents(id);
  const last = events.at(-1);
  const turns = useMemo(() => events.filter((event) => event.type !== "job.progress").length, [events]);
  const { data: job, error, again } = useLoaded((signal) => get(path, { signal }), [id, turns]);
  const report = useLoaded((signal) => (job?.state === "succeeded" ? get(`${path}/report`, { signal }) : null), [id, job?.state]);
  const files = useLoaded((signal) => (job?.state === "succeeded" ? get(`${path}/artifacts`, { signal }) : null), [id, job?.state]);
  const [question, confirm] = useConfirm();
  const [failure, setFailure] = useState(null);
  const [busy, setBusy] = useState(false);
  useNow(job && !FINAL.includes(job.state));
  useTitle(job ? `${job.name ?? job.id}: ${job.state}` : "Job");
  const crumb = session && html`<p class="crumb"><a href="/jobs">← All jobs</a>${job?.sweep_id && html` · <a href=${`/sweeps/${job.sweep_id}`}>its sweep</a>`}</p>`;
  if (!job) return html`${crumb}<${Waiting} title="Job" error=${error} again=${again} lines=${6} label="Loading the job" />`;

  const write = session?.scopes.includes("jobs:write");
  const open = !FINAL.includes(job.state);
  const attempt = async (action) => {
    setFailure(null);
    try {
      await action();
    } catch (refused) {
      setFailure(refused);
    }
  };
  const cancel = async () => {
    if (!await confirm({ title: "Cancel this job?", text: "What it has done so far is lost. A job that runs stops after the block at hand.", yes: "Cancel the job" })) return;
    await attempt(async () => { await post(`${path}/cancel`); again(); });
  };
  const repeat = async () => {
    setBusy(true);
    await attempt(async () => navigate(`/jobs/${(await post("/v1/jobs", requestOf(job))).id}`));
    setBusy(false);
  };
  const state = last && FINAL.includes(last.state) ? job.state : last?.state ?? job.state;
  return html`${crumb}
    <div class="title"><h1>${job.name ?? job.id}</h1><${State} state=${state} /><${Verdict} verdict=${job.verdict} />
      <div class="actions">${write && open && html`<button type="button" class="danger" disabled=${job.cancel_requested_at !== null} onClick=${cancel}>${job.cancel_requested_at ? "Cancelling…" : "Cancel"}</button>`}
        ${write && !open && html`<button type="button" disabled=${busy} onClick=${repeat}>Run again</button>`}
        ${write && html`<a class="button" href=${`/new?from=${id}`}>Start from it</a>`}</div></div>
    <p class="sub">${job.spec.model} · ${pattern(job.spec.pattern)} · ${method(job.spec)} · submitted <${When} at=${job.created_at} />${
      job.started_at ? ` · ${open ? "running" : "ran"} for ${duration(secondsOf(job))}` : ""}${job.attempt > 1 ? ` · attempt ${job.attempt}` : ""} · <code>${job.id}</code></p>
    ${Object.keys(job.metadata).length > 0 && html`<p class="tags">${Object.entries(job.metadata).map(([key, value]) => (session ? html`<a key=${key} class="tag" href=${`/jobs?tag=${encodeURIComponent(`${key}=${value}`)}`}>${key}=${value}</a>`
      : html`<span key=${key} class="tag">${key}=${value}</span>`))}</p>`}
    <${Problem} error=${failure ?? error} />
    ${job.error && html`<${Problem} error=${{ title: job.error.title, message: job.error.detail, problem: job.error }} />`}
    ${open && html`<${Live} job=${job} events=${events} broken=${broken} />`}
    ${job.state === "succeeded" && html`
      <${Problem} error=${report.error} again=${report.again} />
      ${report.data ? html`<${Report} report=${report.data} id=${id} />` : report.loading && html`<${Loading} lines=${8} label="Loading the report" />`}
      <${Problem} error=${files.error} again=${files.again} />
      ${files.data && html`<${Files} files=${files.data.data} job=${job} token=${token} />`}`}
    ${open && html`<${Log} events=${events} open />`}
    <${Push} push=${job.push_to_hub} />
    ${write && html`<${Links} id=${id} />`}
    <section class="card"><h2>The request</h2>${session ? html`<${Request} request=${requestOf(job)} />` : html`<${Code} text=${JSON.stringify(requestOf(job), null, 2)} label="Request as JSON" />`}</section>
    ${!open && html`<${Log} events=${events} open=${job.state === "failed"} />`}
    ${question}`;
}
