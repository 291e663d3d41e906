// The installation's workers: what they compute with, and which jobs of the project they are at.

import { html } from "./preact.js";
import { get } from "./api.js";
import { size } from "./format.js";
import { Empty, Loading, Problem, Table, When, useLoaded, useTitle } from "./ui.js";

const EVERY = 2000;
const CLASSES = { online: "queued", busy: "running", lost: "failed" }; // the marks of jobs mean the same

const several = (names) => [...new Set(names)].map((name) => {
  const count = names.filter((other) => other === name).length;
  return count > 1 ? `${count} × ${name}` : name;
}).join(", ");

export function Workers() {
  const { data, error, again } = useLoaded((signal) => get("/v1/workers", { signal }), [], EVERY);
  useTitle("Workers");
  const workers = data?.data ?? [];
  const count = (state) => workers.filter((worker) => worker.state === state).length;
  return html`<div class="title"><h1>Workers</h1></div>
    <${Problem} error=${error} again=${error && again} />
    ${!data && !error && html`<${Loading} label="Loading workers" />`}
    ${data && workers.length === 0 && html`<${Empty} title="No worker is running"><p>Jobs wait until there is one. <code>eggs serve</code> starts one beside the API, and <code>python -m worker</code> another, with the same settings.</p><//>`}
    ${workers.length > 0 && html`<p class="sub" role="status">${count("busy")} busy with this project's jobs, ${count("online")} more online${count("lost") ? `, ${count("lost")} lost` : ""}. They take jobs of every project.</p>
      <section class="card"><${Table} label="Workers" head=${["Worker", "State", "Computes with", "Memory", "Version", "Started"]}>
      ${workers.map((worker) => html`<tr key=${worker.id} class=${worker.state === "lost" ? "over" : ""}><td><strong>${worker.hostname}</strong> <span class="help">process ${worker.pid}</span></td>
        <td><span class=${`state ${CLASSES[worker.state]}`}><span class="dot" aria-hidden="true"></span>${worker.state}</span>${worker.state === "busy" && html`<br /><a href=${`/jobs/${worker.job_id}`}><code>${worker.job_id}</code></a>`}
          ${worker.state === "lost" && html`<br /><span class="help">last heard of <${When} at=${worker.last_seen_at} />; a job it had goes to another one</span>`}</td>
        <td>${several(worker.gpus) || html`${worker.cpus} processors <span class="help">no GPU</span>`}</td><td>${size(worker.gpu_memory_bytes || worker.memory_bytes)}</td>
        <td>${worker.version}</td><td><${When} at=${worker.started_at} /></td></tr>`)}<//></section>`}`;
}
