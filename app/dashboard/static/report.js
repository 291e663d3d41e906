// The report of a job: what was lost, what was won, and how every layer came through.

import { html } from "./preact.js";
import { between, duration, number, share, size } from "./format.js";
import { Table, Verdict } from "./ui.js";
import { Chart, METRICS, byTraining, byType } from "./charts.js";
import { Masks } from "./mask.js";

const tenThousandths = (value) => value.toFixed(4);
const label = ({ method, effort }) => (effort ? `${method}:${effort}` : method);
const Figure = ({ name, value, note }) => html`<div class="figure"><dt>${name}</dt><dd>${value}</dd>${note && html`<dd class="help">${note}</dd>`}</div>`;
const pm = (value, error) => (value === null ? "–" : `${value.toFixed(4)}${error === null || error === undefined ? "" : ` ± ${error.toFixed(4)}`}`);

function headline({ evaluation, bytes, sparsity, seconds }) {
  const figures = [];
  const text = evaluation?.texts[0];
  if (text) {
    const { dense, pruned, ratio, ratio_interval: interval } = text.perplexity;
    figures.push({ name: `Perplexity on ${text.text.source}`, value: `${number(dense)} → ${number(pruned)}`,
      note: `${ratio.toFixed(2)} × the dense one${interval ? ` (${between(interval)})` : ""}` });
    figures.push({ name: "Same likeliest token", value: share(text.top1_agreement), note: `KL divergence ${text.kl_divergence.toFixed(3)} nats` });
  }
  const packed = bytes.packed_checkpoint ?? null;
  figures.push({ name: "On disk", value: packed === null ? size(bytes.pruned_checkpoint) : `${size(bytes.dense_checkpoint)} → ${size(packed)}`,
    note: packed === null ? "in dense form, with its zeros" : `${share(packed / bytes.dense_checkpoint)} of the dense one, packed` });
  const speed = evaluation?.speed?.[0];
  if (speed) figures.push({ name: "Tokens per second", value: `${number(speed.dense.tokens_per_second)} → ${number(speed.packed.tokens_per_second)}`, note: `${speed.ratio.toFixed(2)} × as fast packed, batch ${speed.batch}` });
  figures.push({ name: "Sparsity", value: share(sparsity.pruned_layers), note: `${share(sparsity.model)} of the whole model` });
  figures.push({ name: "Run", value: duration(seconds.total), note: `peak memory ${size(bytes.peak_resident)}` });
  return figures;
}

function Acceptance({ acceptance }) {
  if (!acceptance) return null;
  const rule = { perplexity_ratio: "at most", kl_divergence: "at most", top1_agreement: "at least" };
  return html`<section class="card"><h2>Verdict <${Verdict} verdict=${acceptance.verdict} /></h2>
    <${Table} caption="What accept_if asks for" head=${["Criterion", "Text", "Limit", "Value", "Met"]}>
      ${acceptance.checks.map((check) => html`<tr><td>${check.criterion.replaceAll("_", " ")}</td><td>${check.source}</td><td>${rule[check.criterion] ?? ""} ${check.limit}</td>
        <td>${number(check.value, 4)}</td><td>${check.met ? "✓ yes" : "✗ no"}</td></tr>`)}<//></section>`;
}

function Texts({ texts }) {
  return html`<${Table} caption="Held-out text, with 95% intervals" head=${["Text", "Dense", "Pruned", "Ratio", "KL divergence", "Same likeliest token"]}>
    ${texts.map(({ text, perplexity, over_seeds: spread, ...found }) => html`<tr key=${text.source}><td>${text.source}</td><td>${perplexity.dense.toFixed(2)}</td>
      <td>${perplexity.pruned.toFixed(2)} <span class="help">${between(perplexity.pruned_interval)}${spread ? `; over seeds ${spread.mean.toFixed(2)} ± ${spread.standard_deviation.toFixed(2)}` : ""}</span></td>
      <td>${perplexity.ratio.toFixed(2)} <span class="help">${between(perplexity.ratio_interval)}</span></td><td>${tenThousandths(found.kl_divergence)} <span class="help">${between(found.kl_divergence_interval, tenThousandths)}</span></td>
      <td>${share(found.top1_agreement)} <span class="help">${between(found.top1_agreement_interval, share)}</span></td></tr>`)}<//>`;
}

function Methods({ report }) {
  const others = report.evaluation?.compared ?? [];
  if (others.length === 0) return null;
  const errors = report.layers.map((layer) => layer.relative_output_error).filter((error) => error !== null);
  const own = errors.length ? errors.reduce((sum, error) => sum + error, 0) / errors.length : null;
  const row = (name, perplexities, error) => html`<tr key=${name}><td>${name}</td><td>${perplexities.map((one) => one.toFixed(2)).join(", ")}</td><td>${error === null ? "–" : error.toFixed(4)}</td></tr>`;
  return html`<${Table} caption="Methods compared, on the same statistics" head=${["Method", "Perplexity, in the order of the texts", "Mean output error"]}>
    ${row(`${label(report)} (this job)`, report.evaluation.texts.map((text) => text.perplexity.pruned), own)}
    ${others.map((other) => row(label(other), other.perplexities, other.mean_relative_output_error))}<//>`;
}

function Speeds({ report: { evaluation, bytes } }) {
  const sizes = [["Checkpoint", bytes.dense_checkpoint, bytes.pruned_checkpoint, bytes.packed_checkpoint], ["In memory", null, bytes.pruned_in_memory, bytes.packed_in_memory]]
    .filter(([, ...values]) => values.some((value) => value !== null && value !== undefined));
  return html`<section class="card"><h2>Sizes and speed</h2>
    <${Table} caption="Sizes" head=${["~What", "Dense model", "Pruned", "Pruned, packed"]}>${sizes.map(([name, ...values]) => html`<tr key=${name}><th scope="row">${name}</th>${values.map((value) => html`<td>${size(value)}</td>`)}</tr>`)}<//>
    ${evaluation?.speed?.length > 0 && html`<${Speed} speeds=${evaluation.speed} />`}</section>`;
}

function Speed({ speeds }) {
  const products = speeds.flatMap((speed) => (speed.products ?? []).map((product) => ({ batch: speed.batch, ...product })));
  return html`<${Table} caption="On the worker's machine: tokens per second, and seconds to take in the prompts" head=${["Batch", "Dense form", "Packed form", "Packed / dense", "Prompts, dense", "Prompts, packed"]}>
      ${speeds.map((one) => html`<tr key=${one.batch}><td>${one.batch}</td><td>${one.dense.tokens_per_second.toFixed(1)}</td><td>${one.packed.tokens_per_second.toFixed(1)}</td><td>${one.ratio.toFixed(2)} ×</td><td>${one.dense.prefill_seconds.toFixed(2)} s</td><td>${one.packed.prefill_seconds.toFixed(2)} s</td></tr>`)}<//>
    ${products.length > 0 && html`<${Table} caption="How the packed form multiplied" head=${["Batch", "Shape", "Layers", "Prompts", "Single tokens"]}>
      ${products.map((one) => html`<tr><td>${one.batch}</td><td>${one.shape.join(" × ")}</td><td>${one.layers}</td><td>${one.prefill}</td><td>${one.decode}</td></tr>`)}<//>`}`;
}

function Tasks({ tasks }) {
  return html`<${Table} caption="Tasks, with standard errors" head=${["Task", "Metric", "Examples", "Dense", "Pruned"]}>
    ${tasks.map((task) => html`<tr><td>${task.name}</td><td>${task.metric}</td><td>${task.examples}</td><td>${pm(task.dense, task.dense_stderr)}</td><td>${pm(task.pruned, task.pruned_stderr)}</td></tr>`)}<//>`;
}

export function Report({ report, id }) {
  const { evaluation, expansion } = report;
  return html`<section class="card report"><h2>Report</h2>
      <dl class="figures">${headline(report).map((figure) => html`<${Figure} key=${figure.name} ...${figure} />`)}</dl>
      ${report.notes.length > 0 && html`<ul class="notes">${report.notes.map((note) => html`<li>${note}</li>`)}</ul>`}</section>
    <${Acceptance} acceptance=${report.acceptance} />
    ${evaluation && html`<section class="card"><h2>What was lost</h2><${Texts} texts=${evaluation.texts} /><${Methods} report=${report} />
      ${evaluation.tasks?.length > 0 && html`<${Tasks} tasks=${evaluation.tasks} />`}
      ${evaluation.generations?.length > 0 && html`<details><summary>What both models say</summary>${evaluation.generations.map((said) => html`<blockquote><p class="help">${said.prompt}</p>
        <p><strong>Dense</strong> ${said.dense}</p><p><strong>Pruned</strong> ${said.pruned}</p></blockquote>`)}</details>`}</section>`}
    <section class="card"><h2>Layers</h2>
      <p class="help">${report.layers.length} layers. Fewest edges of any channel: ${expansion.min_input_degree}; channels cut off: ${expansion.channels_cut_off}; largest second singular value ${number(expansion.max_second_singular_value)}.</p>
      <div class="charts">${METRICS.map((metric) => html`<${Chart} key=${metric.id} title=${metric.title} help=${metric.help} y=${metric.title} file=${`${id}-${metric.id}`}
        reference=${metric.reference} series=${byType(report.layers, metric)} />`)}
        <${Chart} title="Error of a block's outputs" help="On calibration text held out of its training; less is better." y="Error of the outputs" file=${`${id}-training`} series=${byTraining(report.training ?? [])} /></div></section>
    <${Masks} report=${report} id=${id} />
    <${Speeds} report=${report} />`;
}
