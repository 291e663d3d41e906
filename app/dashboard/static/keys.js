// The project's API keys.

import { html, useState } from "./preact.js";
import { get, openapi, post } from "./api.js";
import { size } from "./format.js";
import { resolve } from "./schema.js";
import { Code, Loading, Problem, Table, Text, When, useConfirm, useLoaded, useTitle } from "./ui.js";

const SCOPES = { "jobs:read": "see jobs and files", "jobs:write": "submit, cancel and upload", admin: "manage keys and webhooks, see the audit log" };

const LIMITS = { queued_jobs: (limit) => `${limit} queued`, running_jobs: (limit) => `${limit} running`, upload_bytes: (limit) => `${size(limit)} a file`, stored_bytes: (limit) => `${size(limit)} stored` };
const limitsOf = (key) => Object.entries(key.limits).filter(([, limit]) => limit !== null).map(([name, limit]) => LIMITS[name]?.(limit) ?? `${name} ${limit}`).join(", ");

// A field that is wrong cannot be shown to be while it is folded away.
const unfold = (event) => { event.currentTarget.open = true; };

function Limit({ name, schema, all }) {
  const { description, minimum, maximum } = resolve(schema, all);
  const id = `key-${name}`;
  return html`<div class="field"><label for=${id}>${name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase())}</label>
    <input id=${id} name=${name} type="number" min=${minimum} max=${maximum} step="1" autocomplete="off" aria-describedby=${`${id}-help`} /><span class="help" id=${`${id}-help`}><${Text} text=${description} /></span></div>`;
}

function NewKey({ schemas, made }) {
  const scopes = schemas.Scope.enum;
  const limits = schemas.KeyLimits;
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const day = form.get("expires");
    try {
      const given = Object.keys(limits.properties).filter((name) => form.get(name) !== "").map((name) => [name, Number(form.get(name))]);
      made(await post("/v1/keys", { name: form.get("name"), scopes: form.getAll("scope"), expires_at: day ? `${day}T00:00:00Z` : null, limits: Object.fromEntries(given) }));
      event.target.reset();
      setError(null);
    } catch (refused) {
      setError(refused);
    }
  };
  return html`<form class="card" onSubmit=${submit}><h2>New key</h2><div class="fields">
    <div class="field"><label for="key-name">Name</label><input id="key-name" name="name" maxlength="128" required placeholder="nightly pipeline" autocomplete="off" /></div>
    <div class="field"><label for="key-expires">Expires</label><input id="key-expires" name="expires" type="date" /><span class="help">Never, unless a day is given (UTC).</span></div></div>
    <fieldset class="group"><legend>May</legend>${scopes.map((scope) => html`<label key=${scope} class="choice"><input type="checkbox" name="scope" value=${scope} defaultChecked=${scope !== "admin"} /><code>${scope}</code> <span class="help">${SCOPES[scope] ?? ""}</span></label>`)}</fieldset>
    <details class="section" onInvalidCapture=${unfold}><summary>Limits</summary><p class="help">They only tighten what the installation allows. Leave empty what is not to be limited.</p>
      <div class="fields">${Object.entries(limits.properties).map(([name, schema]) => html`<${Limit} key=${name} name=${name} schema=${schema} all=${schemas} />`)}</div></details>
    <${Problem} error=${error} /><button type="submit" class="primary">Make the key</button></form>`;
}

const over = (key) => (key.revoked_at ? "revoked" : key.expires_at && new Date(key.expires_at) < new Date() ? "expired" : null);

export function Keys({ session }) {
  const { data, error, again } = useLoaded((signal) => get("/v1/keys", { signal }), []);
  const document_ = useLoaded(openapi, []);
  const [made, setMade] = useState(null);
  const [failure, setFailure] = useState(null);
  const [question, confirm] = useConfirm();
  useTitle("Keys");
  const revoke = async (key) => {
    const own = key.id === session.key_id;
    if (!await confirm({ title: `Revoke ${key.name || key.id}?`, text: `What uses it stops working at once, and it cannot be undone.${own ? " It is the key you signed in with: your session ends too." : ""}`, yes: "Revoke the key" })) return;
    try {
      await post(`/v1/keys/${key.id}/revoke`);
      again();
    } catch (refused) {
      setFailure(refused);
    }
  };
  return html`<div class="title"><h1>Keys</h1></div>
    ${made && html`<div class="card made" role="status"><h2>${made.name || "The new key"}</h2><p><strong>This is shown only once.</strong> Keep it where secrets are kept.</p><${Code} text=${made.token} label="The new key" /><button type="button" onClick=${() => setMade(null)}>I have it</button></div>`}
    <${Problem} error=${failure ?? error} again=${error && again} />
    ${!data && !error && html`<${Loading} label="Loading keys" />`}
    ${data && html`<section class="card"><${Table} label="Keys" head=${["Name", "May", "Made", "Last used", "Expires", "~Revoke"]}>
      ${data.data.map((key) => html`<tr key=${key.id} class=${over(key) ? "over" : ""}><td>${key.name || "–"}${key.id === session.key_id && html` <span class="tag">this session</span>`}<br /><code class="help">${key.id}</code></td><td>${key.scopes.map((scope) => html`<span key=${scope} class="tag">${scope}</span>`)}${limitsOf(key) && html`<br /><span class="help">at most ${limitsOf(key)}</span>`}</td>
        <td><${When} at=${key.created_at} /></td><td><${When} at=${key.last_used_at} /></td><td>${key.expires_at ? html`<${When} at=${key.expires_at} />` : "never"}</td>
        <td>${over(key) ?? html`<button type="button" class="danger quiet" onClick=${() => revoke(key)} aria-label=${`Revoke ${key.name || key.id}`}>Revoke</button>`}</td></tr>`)}<//></section>`}
    ${document_.data && html`<${NewKey} schemas=${document_.data.components.schemas} made=${(key) => { setMade(key); again(); window.scrollTo(0, 0); }} />`}${question}`;
}
