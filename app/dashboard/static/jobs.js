// All jobs: filtered, searched, sorted and paged by the URL, and looked at again every few seconds.

import { html, useEffect, useRef, useState } from "./preact.js";
import { get, post } from "./api.js";
import { navigate, useLocation, withQuery } from "./router.js";
import { duration, method, pattern, percent, secondsOf } from "./format.js";
import { Empty, FINAL, Loading, Pages, Problem, Progress, State, Verdict, When, useConfirm, useLoaded, useTitle } from "./ui.js";

const EVERY = 2000;
const PAGE = 25;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];
const METHODS = ["eggs", "sparsegpt", "ria", "wanda", "magnitude"];
const COLUMNS = [["name", "Job"], ["state", "State"], ["model", "Model"], ["method", "Method"], ["created_at", "Submitted"], [null, "Time"]];
const NEWEST = "-created_at"; // first, where nothing else is asked for

function query(url) {
  const asked = new URLSearchParams({ limit: PAGE });
  for (const name of ["q", "state", "model", "method", "sort"]) if (url.get(name)) asked.set(name, url.get(name));
  for (const tag of url.getAll("tag")) {
    const [key, ...value] = tag.split("=");
    asked.append(`metadata.${key}`, value.join("="));
  }
  const after = url.getAll("after").at(-1);
  if (after) asked.set("after", after);
  return asked.toString();
}

// Text that goes into the URL a moment after the last key.
function Typed({ name, label, placeholder, options }) {
  const { query: url } = useLocation();
  const now = url.get(name) ?? "";
  const [text, setText] = useState(now);
  const timer = useRef();
  useEffect(() => setText(now), [now]);
  const type = (event) => {
    const value = event.target.value;
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => navigate(withQuery({ [name]: value.trim(), after: null }), { replace: true }), 250);
  };
  return html`<label class=${`filter ${name}`}><span>${label}</span>
    <input type="search" value=${text} placeholder=${placeholder} onInput=${type} list=${options && `${name}-list`} autocomplete="off" />
    ${options && html`<datalist id=${`${name}-list`}>${options.map((one) => html`<option key=${one} value=${one} />`)}</datalist>`}</label>`;
}

function Chosen({ name, label, options }) {
  const { query: url } = useLocation();
  return html`<label class="filter"><span>${label}</span><select value=${url.get(name) ?? ""}
    onChange=${(event) => navigate(withQuery({ [name]: event.target.value, after: null }))}>
    <option value="">any</option>${options.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>`;
}

function Tags({ children }) {
  const { query: url } = useLocation();
  const tags = url.getAll("tag");
  const add = (event) => {
    event.preventDefault();
    const field = event.target.elements.tag;
    const text = field.value.trim();
    field.setCustomValidity(/^[^=]+=/.test(text) ? "" : "Write a tag as key=value.");
    if (!field.reportValidity()) return;
    field.value = "";
    navigate(withQuery({ tag: [...new Set([...tags, text])], after: null }));
  };
  return html`<form class="filter" onSubmit=${add}><label for="tag">Tag</label>
    <input id="tag" name="tag" placeholder="key=value ⏎" autocomplete="off" onInput=${(event) => event.target.setCustomValidity("")} /></form>
    <div class="chips">${tags.map((tag) => html`<button key=${tag} type="button" class="chip" aria-label=${`Remove the tag ${tag}`}
      onClick=${() => navigate(withQuery({ tag: tags.filter((other) => other !== tag), after: null }))}>${tag} ×</button>`)}${children}</div>`;
}

// Where there is room for columns each sorts by itself, and where there is none a list of them does.
function Head({ sort, all, some, choose }) {
  const box = useRef();
  useEffect(() => { box.current.indeterminate = some && !all; });
  const down = sort.startsWith("-"), by = sort.replace("-", "");
  const order = (column) => {
    const turned = column === by ? !down : column === NEWEST.slice(1);
    const next = `${turned ? "-" : ""}${column}`;
    navigate(withQuery({ sort: next === NEWEST ? null : next, after: null }));
  };
  const arrow = html`<span aria-hidden="true">${down ? "↓" : "↑"}</span>`;
  return html`<thead><tr>
    <th scope="col" class="pick"><label><input type="checkbox" ref=${box} checked=${all} aria-label="Select all jobs of this page" onChange=${(event) => choose(event.target.checked)} /><span>Select all</span></label></th>
    ${COLUMNS.map(([column, title]) => (column ? html`<th key=${column} scope="col" aria-sort=${column !== by ? "none" : down ? "descending" : "ascending"}>
      <button type="button" class="sort" onClick=${() => order(column)}>${title}${column === by && arrow}</button></th>` : html`<th key=${title} scope="col">${title}</th>`))}
    <td class="order"><label for="sort">Sort by</label><select id="sort" value=${by} onChange=${(event) => order(event.target.value)}>
      ${COLUMNS.map(([column, title]) => column && html`<option key=${column} value=${column}>${title}</option>`)}</select>
      <button type="button" aria-label=${down ? "Descending: turn round" : "Ascending: turn round"} onClick=${() => order(by)}>${arrow}</button></td></tr></thead>`;
}

const Row = ({ job, picked, pick }) => html`<tr class=${picked ? "picked" : ""}>
  <td class="pick"><input type="checkbox" checked=${picked} aria-label=${`Select ${job.name ?? job.id}`} onChange=${pick} /></td>
  <td class="name"><a href=${`/jobs/${job.id}`}>${job.name ?? job.id}</a>
    <span class="tags">${Object.entries(job.metadata).map(([key, value]) => html`<span key=${key} class="tag">${key}=${value}</span>`)}</span></td>
  <td><${State} state=${job.state} /> <${Verdict} verdict=${job.verdict} />
    ${job.state === "running" && html`<${Progress} value=${job.progress} label=${`Progress of ${job.name ?? job.id}`} /><span class="help">${percent(job.progress)}${
      job.estimated_seconds_left ? `, ${duration(job.estimated_seconds_left)} left` : ""}</span>`}
    ${job.error && html`<span class="help">${job.error.title}</span>`}</td>
  <td class="model" data-label="Model">${job.spec.model}</td>
  <td data-label="Method">${method(job.spec)} <span class="help">${pattern(job.spec.pattern)}</span></td>
  <td data-label="Submitted"><${When} at=${job.created_at} /></td>
  <td data-label="Time">${duration(secondsOf(job))}</td></tr>`;

export function Jobs({ session }) {
  const { query: url } = useLocation();
  const asked = query(url);
  const { data, error, loading, again } = useLoaded((signal) => get(`/v1/jobs?${asked}`, { signal }), [asked], EVERY);
  const models = useLoaded((signal) => get("/v1/models", { signal }), []);
  const [picked, setPicked] = useState([]);
  const [told, setTold] = useState("");
  const [failure, setFailure] = useState(null);
  const [question, confirm] = useConfirm();
  useTitle("Jobs");
  useEffect(() => setPicked([]), [asked]);

  const jobs = data?.data ?? [];
  const after = url.getAll("after");
  const filtered = ["q", "state", "model", "method", "tag"].some((name) => url.get(name));
  const chosen = jobs.filter((job) => picked.includes(job.id));
  const open = chosen.filter((job) => !FINAL.includes(job.state) && !job.cancel_requested_at);
  const write = session.scopes.includes("jobs:write");

  const cancel = async () => {
    const many = `${open.length} ${open.length === 1 ? "job" : "jobs"}`;
    if (!await confirm({ title: `Cancel ${many}?`, text: "What they have done so far is lost. Jobs that run stop after the block at hand.", yes: `Cancel ${many}` })) return;
    setFailure(null);
    const results = await Promise.allSettled(open.map((job) => post(`/v1/jobs/${job.id}/cancel`)));
    const refused = results.filter((result) => result.status === "rejected");
    setTold(`${results.length - refused.length} of ${many} cancelled.`);
    if (refused.length) setFailure(refused[0].reason);
    setPicked([]);
    again();
  };
  const names = [...new Set([...(models.data?.data ?? []).map((model) => model.id), ...jobs.map((job) => job.spec.model)])];

  return html`<div class="title"><h1>Jobs</h1>${write && html`<a class="button primary" href="/new">New job</a>`}</div>
    <search class="filters"><${Typed} name="q" label="Search" placeholder="name, model or id" />
      <${Chosen} name="state" label="State" options=${STATES} /><${Chosen} name="method" label="Method" options=${METHODS} />
      <${Typed} name="model" label="Model" placeholder="any" options=${names} />
      <${Tags}>${filtered && html`<a class="button quiet" href="/jobs">Clear filters</a>`}<//></search>
    <${Problem} error=${failure ?? error} again=${error && again} />
    <p class="sr" role="status">${told}</p>
    ${!data && loading && html`<${Loading} lines=${8} label="Loading jobs" />`}
    ${data && !error && jobs.length === 0 && (filtered || after.length ? html`<${Empty} title="No job fits"><p>No job has all of what you ask for. <a href="/jobs">Show all jobs</a></p><//>`
      : html`<${Empty} title="No jobs yet"><p>Choose a model and an N:M pattern; a worker prunes it block by block and tells what was lost.</p>
        ${write && html`<p><a class="button primary" href="/new">Submit the first job</a></p>`}<//>`)}
    ${jobs.length > 0 && html`
      <div class=${`bulk ${chosen.length ? "on" : ""}`}>${chosen.length > 0 && html`<span>${chosen.length} selected</span>
        ${write && html`<button type="button" class="danger" disabled=${open.length === 0} onClick=${cancel}>Cancel</button>`}
        ${chosen.length > 1 && html`<a class="button" href=${`/compare?${chosen.map((job) => `job=${job.id}`).join("&")}`}>Compare</a>`}
        <button type="button" class="quiet" onClick=${() => setPicked([])}>Clear</button>`}</div>
      <div class="jobs-table"><table class="jobs"><caption class="sr">Jobs of the project ${session.project}</caption>
      <${Head} sort=${url.get("sort") ?? NEWEST} all=${chosen.length === jobs.length} some=${chosen.length > 0}
        choose=${(on) => setPicked(on ? jobs.map((job) => job.id) : [])} />
      <tbody>${jobs.map((job) => html`<${Row} key=${job.id} job=${job} picked=${picked.includes(job.id)}
        pick=${() => setPicked(picked.includes(job.id) ? picked.filter((id) => id !== job.id) : [...picked, job.id])} />`)}</tbody></table></div>`}
    <${Pages} before=${after} next=${data?.has_more ? data.last_id : null} />
    ${question}`;
}
