// Two or more jobs side by side: what they were asked, with the differences marked, and what came of it.

import { html, useState } from "./preact.js";
import { get } from "./api.js";
import { useLocation } from "./router.js";
import { between, duration, number, share, size } from "./format.js";
import { Empty, FINAL, State, Verdict, Waiting, useLoaded, useTitle } from "./ui.js";
import { Chart, METRICS, byBlock } from "./charts.js";
import { requestOf } from "./requests.js";

const MOST = 8; // as many as there are colours, and as fit side by side

function flat(value, at = "") {
  if (value === null) return []; // as if it had not been asked for
  if (typeof value !== "object" || Array.isArray(value)) return [[at, JSON.stringify(value)]];
  return Object.entries(value).flatMap(([name, part]) => flat(part, at ? `${at}.${name}` : name));
}

const plain = (text) => (text === undefined ? "–" : text.replace(/^"(.*)"$/, "$1"));

function configuration(jobs) {
  const settings = jobs.map((job) => Object.fromEntries(flat(requestOf(job)).filter(([name]) => name !== "name")));
  const names = [...new Set(settings.flatMap((one) => Object.keys(one)))];
  return names.map((name) => ({ name, values: settings.map((one) => one[name]), differ: new Set(settings.map((one) => one[name])).size > 1 }));
}

const RESULTS = [
  ["Perplexity, dense", (report) => report.evaluation?.texts[0]?.perplexity.dense, (value) => number(value, 4)],
  ["Perplexity, pruned", (report) => report.evaluation?.texts[0]?.perplexity.pruned, (value, report) => html`${number(value, 4)} <span class="help">${between(report.evaluation.texts[0].perplexity.pruned_interval)}</span>`, Math.min],
  ["Perplexity ratio", (report) => report.evaluation?.texts[0]?.perplexity.ratio, (value) => value.toFixed(2), Math.min],
  ["KL divergence", (report) => report.evaluation?.texts[0]?.kl_divergence, (value) => value.toFixed(4), Math.min],
  ["Same likeliest token", (report) => report.evaluation?.texts[0]?.top1_agreement, share, Math.max],
  ["Sparsity of the model", (report) => report.sparsity.model, share],
  ["Packed checkpoint", (report) => report.bytes.packed_checkpoint, size, Math.min],
  ["Packed / dense speed", (report) => report.evaluation?.speed?.[0]?.ratio, (value) => `${value.toFixed(2)} ×`, Math.max],
  ["Fewest edges of a channel", (report) => report.expansion.min_input_degree, String],
  ["Time", (report) => report.seconds.total, (value) => duration(value), Math.min],
];

// In the place of rows where there are none.
const Row = ({ columns, children }) => html`<tr><td colspan=${columns}><span class="stays">${children}</span></td></tr>`;

function Results({ jobs, reports }) {
  if (reports.every((report) => report === null)) {
    return html`<${Row} columns=${jobs.length + 1}>${jobs.every((job) => FINAL.includes(job.state)) ? "None of these jobs has succeeded, so there is no report to compare."
      : "No report yet: a job has one when it has succeeded."}<//>`;
  }
  return RESULTS.map(([name, of, show, best]) => {
    const values = reports.map((report) => (report ? of(report) ?? null : null));
    const known = values.filter((value) => value !== null);
    if (known.length === 0) return null;
    const winner = best && new Set(known).size > 1 ? best(...known) : null;
    return html`<tr key=${name}><th scope="row">${name}</th>${values.map((value, index) => html`<td class=${value !== null && value === winner ? "best" : ""}>
      ${value === null ? "–" : show(value, reports[index])}${value !== null && value === winner ? html`<span class="sr"> (best)</span>` : ""}</td>`)}</tr>`;
  });
}

export function Compare() {
  const { query } = useLocation();
  const named = [...new Set(query.getAll("job"))];
  const ids = named.slice(0, MOST);
  const [all, setAll] = useState(false);
  const [type, setType] = useState("");
  useTitle("Compare jobs");
  const crumb = html`<p class="crumb"><a href="/jobs">← All jobs</a></p>`;
  const { data, error, again } = useLoaded(async (signal) => Promise.all(ids.map(async (id) => {
    const job = await get(`/v1/jobs/${encodeURIComponent(id)}`, { signal }).catch((refused) => {
      if (refused.status === 404) refused.message = `\`${id}\`: ${refused.message}`;
      throw refused;
    });
    return { job, report: job.state === "succeeded" ? await get(`/v1/jobs/${encodeURIComponent(id)}/report`, { signal }) : null };
  })), [ids.join()]);
  if (ids.length < 2) return html`<div class="title"><h1>Compare jobs</h1></div><${Empty} title="Nothing to compare"><p>Select two or more <a href="/jobs">jobs</a>, then Compare.</p><//>`;
  if (!data) return html`${crumb}<${Waiting} title="Compare jobs" error=${error} again=${again} lines=${8} label="Loading jobs" />`;
  const jobs = data.map((one) => one.job), reports = data.map((one) => one.report);
  const rows = configuration(jobs);
  const shown = all ? rows : rows.filter((row) => row.differ);
  const types = [...new Set(reports.flatMap((report) => report?.layers.map((layer) => layer.type) ?? []))];
  const name = (job) => job.name ?? job.id;
  const twice = (job) => jobs.filter((other) => name(other) === name(job)).length > 1;
  const unique = (job) => (twice(job) ? `${name(job)} (${job.id.slice(-4)})` : name(job));
  return html`${crumb}<div class="title"><h1>Compare ${jobs.length} jobs</h1></div>
    ${named.length > MOST && html`<p class="notice" role="status">These are the first ${MOST} of ${named.length} jobs; more do not fit side by side. <code>eggs compare</code> compares as many as you name.</p>`}
    <section class="card"><div class="wide" tabindex="0" role="region" aria-label="Jobs side by side"><table class="compare">
      <thead><tr><th scope="col"><span class="sr">Of each job</span></th>${jobs.map((job) => html`<th key=${job.id} scope="col"><a href=${`/jobs/${job.id}`}>${unique(job)}</a><br /><${State} state=${job.state} /> <${Verdict} verdict=${job.verdict} /></th>`)}</tr></thead>
      <tbody><tr class="part"><th colspan=${jobs.length + 1} scope="rowgroup"><span class="stays">What came of it</span></th></tr><${Results} jobs=${jobs} reports=${reports} /></tbody>
      <tbody><tr class="part"><th colspan=${jobs.length + 1} scope="rowgroup"><span class="stays">What was asked <label class="inline"><input type="checkbox" checked=${all} onChange=${(event) => setAll(event.target.checked)} />what is the same too</label></span></th></tr>
        ${shown.length === 0 && html`<${Row} columns=${jobs.length + 1}>All of them were asked the same.<//>`}
        ${shown.map((row) => html`<tr key=${row.name} class=${row.differ ? "differs" : ""}><th scope="row">${row.name.split(/(?<=[._])/).map((part) => html`${part}<wbr />`)}</th>${row.values.map((value) => html`<td>${plain(value)}</td>`)}</tr>`)}</tbody></table></div></section>
    ${types.length > 0 && html`<section class="card"><h2>Layers</h2><label class="inline">Layers of type <select value=${type} onChange=${(event) => setType(event.target.value)}>
        <option value="">all, mean of each block</option>${types.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>
      <div class="charts">${METRICS.map((metric) => html`<${Chart} key=${`${metric.id}${type}`} title=${metric.title} help=${metric.help} y=${metric.title} file=${`compare-${metric.id}`} reference=${metric.reference}
        series=${jobs.map((job, index) => ({ name: unique(job), points: byBlock(reports[index]?.layers ?? [], metric, type).map((point) => ({ ...point, label: `${unique(job)}, block ${point.x}` })) }))} />`)}</div></section>`}`;
}
