// Sweeps: several trials over one model, side by side.

import { html, useState } from "./preact.js";
import { get, post } from "./api.js";
import { useLocation } from "./router.js";
import { number, size } from "./format.js";
import { Empty, FINAL, Loading, Pages, Problem, State, Table, Verdict, Waiting, When, useConfirm, useLoaded, useTitle } from "./ui.js";

const EVERY = 2000;

const counts = (jobs) => Object.entries(jobs).map(([state, count]) => `${count} ${state}`).join(", ");

export function Sweeps() {
  const { query } = useLocation();
  const after = query.getAll("after");
  const last = after.length ? `?after=${encodeURIComponent(after[after.length - 1])}` : "";
  const { data, error, again } = useLoaded((signal) => get(`/v1/sweeps${last}`, { signal }), [last], EVERY);
  useTitle("Sweeps");
  return html`<div class="title"><h1>Sweeps</h1></div>
    <${Problem} error=${error} again=${error && again} />
    ${!data && !error && html`<${Loading} label="Loading sweeps" />`}
    ${data && data.data.length === 0 && html`<${Empty} title="No sweeps yet"><p>A sweep tries several settings over one model and compares them: <code>eggs sweeps submit MODEL --vary method=ria,eggs:fast</code>, or <a href="/docs#/Sweeps" data-external>POST /v1/sweeps</a>.</p><//>`}
    ${data?.data.length > 0 && html`<section class="card"><${Table} label="Sweeps" head=${["Name", "State", "Jobs", "Model", "Submitted"]}>
      ${data.data.map((sweep) => html`<tr key=${sweep.id}><td><a href=${`/sweeps/${sweep.id}`}>${sweep.name ?? sweep.id}</a></td><td><${State} state=${sweep.state} /></td>
        <td>${counts(sweep.jobs)}</td><td class="model">${sweep.model}</td><td><${When} at=${sweep.created_at} /></td></tr>`)}<//></section>`}
    <${Pages} before=${after} next=${data?.has_more ? data.last_id : null} />`;
}

function Trials({ sweep }) {
  const sources = sweep.trials.find((trial) => trial.figures)?.figures.texts.map((text) => text.source) ?? [];
  const judged = sweep.trials.some((trial) => trial.figures?.verdict);
  const head = ["Trial", "State", ...sources.flatMap((source) => [`Perplexity, ${source}`, "÷ dense"]), "Packed", ...(judged ? ["Verdict"] : [])];
  return html`<${Table} label="Trials" head=${head}>
    ${sweep.trials.map((trial, index) => html`<tr key=${index} class=${index === sweep.best ? "best" : ""}>
      <td><a href=${`/jobs/${trial.job_id}`}>${trial.label}</a>${index === sweep.best && html` <span class="tag">best</span>`}
        ${trial.shared && html`<br /><span class="help">compared in another trial's job; leaves no model</span>`}</td>
      <td><${State} state=${trial.state} /></td>
      ${sources.map((source, at) => html`<td>${number(trial.figures?.texts[at].pruned, 4)}</td><td>${trial.figures ? trial.figures.texts[at].ratio.toFixed(2) : "–"}</td>`)}
      <td>${size(trial.figures?.packed_bytes)}</td>${judged && html`<td><${Verdict} verdict=${trial.figures?.verdict} /></td>`}</tr>`)}<//>`;
}

export function Sweep({ id, session }) {
  const { data: sweep, error, again } = useLoaded((signal) => get(`/v1/sweeps/${id}`, { signal }), [id], EVERY);
  const [failure, setFailure] = useState(null);
  const [question, confirm] = useConfirm();
  useTitle(sweep?.name ?? "Sweep");
  const crumb = html`<p class="crumb"><a href="/sweeps">← All sweeps</a></p>`;
  if (!sweep) return html`${crumb}<${Waiting} title="Sweep" error=${error} again=${again} lines=${8} label="Loading the sweep" />`;
  const jobs = [...new Set(sweep.trials.map((trial) => trial.job_id))];
  const cancel = async () => {
    if (!await confirm({ title: "Cancel the sweep?", text: "What has ended of it stays. Jobs that run stop after the block at hand.", yes: "Cancel the sweep" })) return;
    try {
      setFailure(null);
      await post(`/v1/sweeps/${id}/cancel`);
      again();
    } catch (refused) {
      setFailure(refused);
    }
  };
  return html`${crumb}
    <div class="title"><h1>${sweep.name ?? sweep.id}</h1><${State} state=${sweep.state} />
      <div class="actions">${!FINAL.includes(sweep.state) && session.scopes.includes("jobs:write") && html`<button type="button" class="danger" onClick=${cancel}>Cancel</button>`}
        ${jobs.length > 1 && html`<a class="button" href=${`/compare?${jobs.map((job) => `job=${job}`).join("&")}`}>Compare its jobs</a>`}</div></div>
    <p class="sub"><span role="status">${sweep.model}: ${sweep.trials.length} trials, ${counts(sweep.jobs)}</span> · submitted <${When} at=${sweep.created_at} />${sweep.completed_at && html` · ended <${When} at=${sweep.completed_at} />`}</p>
    <${Problem} error=${failure ?? error} again=${error && again} />
    <section class="card"><${Trials} sweep=${sweep} /></section>${question}`;
}
