// The files of a job: what they are, how to check them, and how to load the model in them.

import { html } from "./preact.js";
import { moment, size } from "./format.js";
import { Code, Copy, Table, Tabs } from "./ui.js";
import { quoted } from "./requests.js";

const folder = "pruned";
const check = `(cd ${folder} && sha256sum --check SHA256SUMS)`;

// With the token of a link, for those who have nothing else: no key, and perhaps no `eggs`.
const byLink = (files, job, token) => `TOKEN=${token}
for file in ${files.map((file) => quoted(file.name)).join(" ")}; do
    curl -fsSL --create-dirs -o "${folder}/$file" -H "Authorization: Bearer $TOKEN" "${location.origin}/v1/jobs/${job.id}/artifacts/$file"
done
${check}`;

function loading(files, job, token) {
  const byKey = `eggs download ${job.id} --url ${location.origin} --out ${folder}`;
  const first = token ? `# Once the files are here, as "Download" has it:` : `# ${byKey}`;
  const code = (path, extra) => `${first}\n${extra}from transformers import AutoModelForCausalLM, AutoTokenizer\n
model = AutoModelForCausalLM.from_pretrained("${path}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("${path}")
inputs = tokenizer("The capital of France is", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))`;
  const format = job.spec.output?.format ?? "dense";
  const forms = [];
  if (format !== "packed") forms.push(["Dense", code(folder, "")]);
  if (format !== "dense") forms.push(["Packed", code(format === "both" ? `${folder}/packed` : folder, "import eggs_core  # knows the packed form\n")]);
  forms.push(["Download", token ? byLink(files, job, token) : `${byKey}\n# It has checked them; to do so again:\n${check}`]);
  return forms;
}

// `token`: that of the link by which the job is seen, if it is.
export function Files({ files, job, token }) {
  const expiry = job.artifacts_expire_at;
  const gone = expiry && new Date(expiry) < new Date();
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  return html`<section class="card"><h2>Files</h2>
    <p>${files.length} ${files.length === 1 ? "file" : "files"}, ${size(total)}. ${expiry ? html`<strong>${gone ? "They were kept until" : "They are kept until"} ${moment(expiry)}${gone ? ", and are gone." : "."}</strong>` : "They are kept."}</p>
    <${Tabs} label="Load the model" tabs=${loading(files, job, token).map(([name, text]) => [name, html`<${Code} text=${text} label=${name} />`])} />
    <${Table} short caption="Checksums are sha256, of the whole file" head=${["File", "Size", "sha256", "~Copy"]}>
      ${files.map((file) => html`<tr key=${file.id}><td>${gone ? file.name : html`<a href=${file.url} download data-external>${file.name}</a>`}</td><td>${size(file.bytes)}</td>
        <td><code title=${file.sha256}>${file.sha256.slice(0, 12)}…</code></td><td><${Copy} text=${file.sha256} label="Copy sha256" /></td></tr>`)}<//></section>`;
}
