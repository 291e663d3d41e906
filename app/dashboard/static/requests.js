// The request of a job, and the same request for other tools.

import { html } from "./preact.js";
import { Code, Tabs } from "./ui.js";
import { pattern } from "./format.js";

// What would make this job again. A token that came with it is known to nobody, and so left out.
export function requestOf(job) {
  const { output, ...spec } = job.spec;
  const push = job.push_to_hub && (({ repo_id, private: hidden, revision }) => ({ repo_id, private: hidden, revision }))(job.push_to_hub);
  const own = {};
  if (job.name) own.name = job.name;
  if (Object.keys(job.metadata).length) own.metadata = job.metadata;
  if (job.priority) own.priority = job.priority;
  return { ...spec, pattern: pattern(spec.pattern), output: push ? { ...output, push_to_hub: push } : output, ...own };
}

export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);

function curl(request, origin) {
  return [`curl -s ${origin}/v1/jobs \\`, '    -H "Authorization: Bearer $EGGS_API_KEY" \\', '    -H "Content-Type: application/json" \\',
    `    -d ${quoted(JSON.stringify(request, null, 2))}`].join("\n");
}

function literal(value, depth = 0) {
  const pad = "    ".repeat(depth + 1), end = "    ".repeat(depth);
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((one) => literal(one, depth)).join(", ")}]`;
  if (typeof value === "object") {
    const pairs = Object.entries(value);
    return pairs.length ? `{\n${pairs.map(([name, one]) => `${pad}${JSON.stringify(name)}: ${literal(one, depth + 1)},\n`).join("")}${end}}` : "{}";
  }
  return JSON.stringify(value);
}

function python(request, origin) {
  return `import os

import httpx

request = ${literal(request)}
answer = httpx.post(
    "${origin}/v1/jobs",
    json=request,
    headers={"Authorization": f"Bearer {os.environ['EGGS_API_KEY']}"},
)
answer.raise_for_status()
print(answer.json()["id"])`;
}

const compared = ({ method, effort }) => (effort ? `${method}:${effort}` : method);

// Options of `eggs submit`, each with the part of the request it makes. What is left over, it has none for.
function options(request) {
  const { calibration = {}, evaluation, output = {} } = request;
  const push = output.push_to_hub ?? {};
  const given = [];
  const left = { calibration: { ...calibration }, evaluation: evaluation && { ...evaluation }, output: { ...output }, push: { ...push }, accept: { ...request.accept_if } };
  const top = { ...request };
  const take = (holder, name, flag, show = String) => {
    const value = holder?.[name];
    if (holder) delete holder[name];
    if (value === undefined || value === null) return;
    for (const one of [value].flat()) given.push([flag, show(one)]);
  };
  for (const name of ["revision", "pattern", "method", "effort", "seeds", "name", "priority"]) take(top, name, `--${name}`);
  // The first = of a pair ends its name: one that has one itself cannot be written so.
  const pairs = Object.entries(top.metadata ?? {});
  const odd = pairs.filter(([name]) => name.includes("="));
  for (const pair of pairs) if (!odd.includes(pair)) given.push(["--metadata", pair.join("=")]);
  delete top.metadata;
  for (const name of ["perplexity_ratio", "kl_divergence", "top1_agreement"]) take(left.accept, name, `--accept-${name.replaceAll("_", "-")}`);
  take(top, "min_degree", "--min-degree");
  take(top, "ignore", "--ignore");
  take(top, "compare", "--compare", compared);
  if (typeof top.permute === "boolean") given.push([top.permute ? "--permute" : "--no-permute"]);
  delete top.permute;
  take(left.calibration, "source", "--calibration");
  take(left.calibration, "samples", "--calibration-samples");
  take(left.calibration, "seed", "--seed");
  take(left.calibration, "sequence_length", "--sequence-length");
  take(left.calibration, "text_field", "--text-field");
  if (evaluation === null) given.push(["--evaluation", "none"]);
  if (evaluation) {
    take(left.evaluation, "sources", "--evaluation");
    if (evaluation.samples === null) given.push(["--evaluation-samples", "0"]);
    take(left.evaluation, "samples", "--evaluation-samples");
    take(left.evaluation, "generations", "--generations");
    take(left.evaluation, "tasks", "--task");
    take(left.evaluation, "task_limit", "--task-limit");
    if (left.evaluation.speed) given.push(["--speed"]);
    delete left.evaluation.speed;
    take(left.evaluation, "sequence_length", "--evaluation-sequence-length");
    take(left.evaluation, "text_field", "--evaluation-text-field");
  }
  take(left.output, "format", "--format");
  delete left.output.push_to_hub;
  take(left.push, "repo_id", "--push-to-hub");
  if (left.push.revision && left.push.revision !== "main") given.push(["--hub-revision", left.push.revision]);
  if (left.push.private === false) given.push(["--hub-public"]);
  for (const name of ["model", "calibration", "evaluation", "output", "hub_token", "accept_if"]) delete top[name];
  const rest = (holder, prefix) => Object.entries(holder ?? {})
    .filter(([, value]) => value !== null).map(([name]) => `${prefix}${name}`);
  const missing = [...rest(top, ""), ...rest(left.calibration, "calibration."), ...rest(left.evaluation, "evaluation."), ...odd.map(([name]) => `metadata.${name}`)];
  return { given, missing };
}

function cli(request, origin) {
  const { given, missing } = options(request);
  const lines = [`eggs submit ${quoted(request.model ?? "MODEL")}`];
  for (const [flag, value] of given) lines.push(value === undefined ? flag : `${flag} ${quoted(value)}`);
  lines.push(`--url ${origin}`, "--wait");
  const note = missing.length ? `# It has no options for: ${missing.join(", ")}. Use curl or Python where they matter.\n` : "";
  return `${note}${lines.join(" \\\n    ")}`;
}

export function Request({ request }) {
  const origin = location.origin;
  const forms = [["JSON", JSON.stringify(request, null, 2)], ["curl", curl(request, origin)], ["Python", python(request, origin)], ["CLI", cli(request, origin)]];
  return html`<${Tabs} label="Request as" tabs=${forms.map(([name, text]) => [name, html`<${Code} text=${text} label=${`Request as ${name}`} />`])} />`;
}
