// The page at `/`: lists jobs, and follows one live. Text from the service only ever becomes text (textContent).

const LIST_EVERY_MS = 2000;
const RESUME_AFTER_MS = 1000;
const FINAL = ["succeeded", "failed", "cancelled"];
const EVENTS_SHOWN = 200;

const $ = (id) => document.getElementById(id);

let view = new AbortController(); // ends whatever the view before was waiting for
let shownPages = 1;

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ? `${problem.title}. ${problem.detail}` : `The service answered ${status}.`);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem("key")}`, ...options.headers };
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
  return response;
}

const askJson = async (path, options) => (await ask(path, options)).json();

function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
  });
}

function showProblem(message) {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

function report(error, signal) {
  if (signal?.aborted) return;
  if (error.status === 401) {
    sessionStorage.removeItem("key");
    show();
  }
  showProblem(error instanceof Refused ? error.message : "The service cannot be reached; trying again.");
}

// ---------------------------------------------------------------- list

function when(text) {
  const moment = new Date(text);
  return element("time", { dateTime: text, title: moment.toString() },
    moment.toLocaleString([], { dateStyle: "short", timeStyle: "short" }));
}

function what(job) {
  return `${job.spec.model} · ${job.spec.pattern} · ${job.spec.method}`;
}

function row(job) {
  const link = element("a", { href: `#${job.id}` },
    element("span", { className: "name" }, job.name || job.id),
    element("span", { className: `state ${job.state}` }, job.state),
    element("span", { className: "what" }, what(job)),
    when(job.created_at));
  if (job.state === "running") {
    link.append(element("progress", { max: 1, value: job.progress, ariaLabel: "Progress" }));
  }
  return element("li", {}, link);
}

async function loadPages(signal) {
  const jobs = [];
  let page = { has_more: true };
  for (let number = 0; number < shownPages && page.has_more; number += 1) {
    page = await askJson(`/v1/jobs${page.last_id ? `?after=${page.last_id}` : ""}`, { signal });
    jobs.push(...page.data);
  }
  return { jobs, more: page.has_more };
}

async function showList(signal) {
  $("jobs").hidden = false;
  let seen = "";
  while (!signal.aborted) {
    try {
      const { jobs, more } = await loadPages(signal);
      const now = JSON.stringify(jobs);
      if (now !== seen) { // left alone where nothing changed, so that focus and selection stay
        seen = now;
        const focused = document.activeElement?.getAttribute("href");
        $("list").replaceChildren(...jobs.map(row));
        if (focused) $("list").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
      }
      $("loading").hidden = true;
      $("empty").hidden = jobs.length > 0;
      $("more").hidden = !more;
      showProblem("");
    } catch (error) {
      report(error, signal);
    }
    await sleep(LIST_EVERY_MS, signal);
  }
}

// ---------------------------------------------------------------- one job

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function showJob(job) {
  $("job-title").textContent = job.name || job.id;
  $("job-line").replaceChildren(
    element("span", { className: `state ${job.state}` }, job.state), ` · ${what(job)} · ${job.id}`);
  $("job-progress").value = job.progress;
  $("cancel").hidden = FINAL.includes(job.state);
  $("cancel").disabled = job.cancel_requested_at !== null;
  $("cancel").textContent = job.cancel_requested_at ? "Cancelling…" : "Cancel job";
  if (job.error) showProblem(`${job.error.title}. ${job.error.detail ?? ""}`);
}

function showEvent(event, started) {
  $("job-progress").value = event.progress;
  const percent = `${Math.round(event.progress * 100)} %`;
  let left = "";
  if (event.state === "running" && started && event.progress > 0) {
    const elapsed = (new Date(event.created_at) - new Date(started)) / 1000;
    left = ` · about ${duration(elapsed * (1 - event.progress) / event.progress)} left`;
  }
  $("job-now").textContent = `${percent} · ${event.message}${left}`;
  $("events").prepend(element("li", {},
    element("time", { dateTime: event.created_at }, new Date(event.created_at).toLocaleTimeString()),
    element("span", {}, event.message)));
  while ($("events").children.length > EVENTS_SHOWN) $("events").lastChild.remove();
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

// Server-sent events through fetch, since EventSource cannot send a key.
async function* events(jobId, signal) {
  let last = 0;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", "Last-Event-ID": String(last) };
      const response = await ask(`/v1/jobs/${encodeURIComponent(jobId)}/events`, { headers, signal });
      showProblem("");
      for await (const line of lines(response)) {
        if (!line.startsWith("data: ")) continue;
        const event = JSON.parse(line.slice(6));
        last = event.id;
        yield event;
        if (FINAL.includes(event.state)) return;
      }
    } catch (error) {
      if (error instanceof Refused && error.status < 500) throw error;
      report(error, signal);
    }
    await sleep(RESUME_AFTER_MS, signal);
  }
}

async function followJob(jobId, signal) {
  for (const id of ["job-title", "job-line", "job-now", "events"]) $(id).replaceChildren();
  $("job-title").textContent = "Loading…";
  $("job-progress").value = 0;
  $("report").hidden = true;
  $("cancel").hidden = true;
  $("job").hidden = false;
  const path = `/v1/jobs/${encodeURIComponent(jobId)}`;
  try {
    let job;
    let state = "";
    for await (const event of events(jobId, signal)) {
      if (event.state !== state || event.type === "job.cancel_requested") {
        state = event.state;
        job = await askJson(path, { signal });
        showJob(job);
      }
      showEvent(event, job.started_at);
    }
    if (signal.aborted) return;
    job = await askJson(path, { signal });
    showJob(job);
    if (job.state === "succeeded") showReport(jobId, await askJson(`${path}/report`, { signal }));
  } catch (error) {
    if ($("job-title").textContent === "Loading…") $("job").hidden = true;
    report(error, signal);
  }
}

function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = bytes;
  while (value >= 1000 && units.length > 1) { value /= 1000; units.shift(); }
  return `${Number(value.toPrecision(3))} ${units[0]}`;
}

const share = (value) => `${(value * 100).toFixed(1)} %`;
const between = (interval) => (interval ? ` (${interval.low.toFixed(2)} to ${interval.high.toFixed(2)})` : "");
const overSeeds = (spread) => (
  spread ? `, over seeds ${spread.mean.toFixed(2)} ± ${spread.standard_deviation.toFixed(2)}` : "");
const score = (value, error) => (
  value === null ? "–" : value.toFixed(4) + (error === null ? "" : ` ± ${error.toFixed(4)}`));

function cells(...values) {
  return element("tr", {}, ...values.map((value) => element("td", {}, String(value))));
}

const label = ({ method, effort }) => (effort === null ? method : `${method}:${effort}`);
const each = (perplexities) => perplexities.map((value) => value.toFixed(2)).join(", ");

function showCompared({ evaluation, ...own }) {
  const compared = evaluation?.compared ?? []; // older reports have none
  $("compared").hidden = compared.length === 0;
  const errors = own.layers.map((layer) => layer.relative_output_error).filter((error) => error !== null);
  const mean = errors.length ? errors.reduce((sum, error) => sum + error, 0) / errors.length : null;
  const published = (evaluation?.texts ?? []).map((text) => text.perplexity.pruned);
  $("methods").replaceChildren(
    cells(`${label(own)}, the job's own`, each(published), score(mean, null)),
    ...compared.map((other) => cells(
      label(other), each(other.perplexities), score(other.mean_relative_output_error, null))));
}

function showEvaluation(evaluation) {
  $("evaluation").hidden = !evaluation;
  $("texts").replaceChildren(...(evaluation?.texts ?? []).map(({ text, perplexity, ...found }) => cells(
    text.source,
    perplexity.dense.toFixed(2),
    perplexity.pruned.toFixed(2) + between(perplexity.pruned_interval) + overSeeds(found.over_seeds),
    perplexity.ratio.toFixed(2) + between(perplexity.ratio_interval),
    found.kl_divergence.toFixed(4),
    share(found.top1_agreement))));
  const tasks = evaluation?.tasks ?? [];
  $("tasks").hidden = tasks.length === 0;
  $("results").replaceChildren(...tasks.map((task) => cells(
    task.name,
    task.metric,
    task.examples,
    score(task.dense, task.dense_stderr),
    score(task.pruned, task.pruned_stderr))));
  const generations = evaluation?.generations ?? [];
  $("generations").hidden = generations.length === 0;
  $("said").replaceChildren(...generations.map(({ prompt, dense, pruned }) => cells(prompt, dense, pruned)));
}

function packedFigures({ bytes, evaluation }) {
  if ((bytes.packed_checkpoint ?? null) === null) return []; // not asked for, or an older report
  const memory = bytes.packed_in_memory === null ? [] : [
    ["In memory, pruned", size(bytes.pruned_in_memory)], ["In memory, packed", size(bytes.packed_in_memory)]];
  const speed = (evaluation?.speed ?? []).map(({ batch, dense, packed, ratio }) => [
    `Tokens per second, batch ${batch}`,
    `${dense.tokens_per_second.toFixed(1)} dense, ${packed.tokens_per_second.toFixed(1)} packed (${ratio.toFixed(2)} ×)`]);
  return [["Checkpoint, packed", size(bytes.packed_checkpoint)], ...memory, ...speed];
}

function showReport(jobId, found) {
  showEvaluation(found.evaluation);
  showCompared(found);
  const figures = [
    ["Sparsity of pruned layers", share(found.sparsity.pruned_layers)],
    ["Sparsity of the model", share(found.sparsity.model)],
    ["Checkpoint, dense", size(found.bytes.dense_checkpoint)],
    ["Checkpoint, pruned", size(found.bytes.pruned_checkpoint)],
    ...packedFigures(found),
    ["Fewest edges of a channel", String(found.expansion.min_input_degree)],
    ["Channels cut off", String(found.expansion.channels_cut_off)],
    ["Time", found.seconds.total === undefined ? "–" : duration(found.seconds.total)],
  ];
  $("figures").replaceChildren(...figures.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  $("layers").replaceChildren(...Object.entries(found.sparsity.by_layer_type).map(([type, sparsity]) => {
    const layers = found.layers.filter((layer) => layer.type === type);
    const kept = layers.reduce((sum, layer) => sum + layer.kept_importance, 0) / layers.length;
    const fewest = Math.min(...layers.map((layer) => layer.min_input_degree));
    return cells(type, layers.length, share(sparsity), kept.toFixed(4), fewest);
  }));
  $("notes").replaceChildren(...found.notes.map((note) => element("li", {}, note)));
  $("download").textContent = `eggs download ${jobId} --out DIR`;
  $("report").hidden = false;
}

// ---------------------------------------------------------------- which view

function show() {
  view.abort();
  view = new AbortController();
  const jobId = decodeURIComponent(location.hash.slice(1));
  const known = sessionStorage.getItem("key") !== null;
  for (const id of ["sign-in", "jobs", "job"]) $(id).hidden = true;
  $("forget").hidden = !known;
  showProblem("");
  if (!known) {
    $("sign-in").hidden = false;
    $("key").focus();
  } else if (jobId) {
    followJob(jobId, view.signal);
  } else {
    showList(view.signal);
  }
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value.trim());
  $("key").value = "";
  show();
});
$("forget").addEventListener("click", () => { sessionStorage.removeItem("key"); show(); });
$("more").addEventListener("click", () => { shownPages += 1; show(); });
$("cancel").addEventListener("click", async () => {
  try {
    showJob(await askJson(`/v1/jobs/${encodeURIComponent(location.hash.slice(1))}/cancel`, { method: "POST" }));
  } catch (error) {
    report(error);
  }
});
window.addEventListener("hashchange", show);
show();
