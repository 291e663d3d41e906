// The project's webhooks, and what was sent to each.

import { html, useState } from "./preact.js";
import { ask, get, openapi, post } from "./api.js";
import { Code, Empty, Loading, Problem, Table, When, useConfirm, useLoaded, useTitle } from "./ui.js";

const EVERY = 3000;

function Deliveries({ id, act }) {
  const { data, error, again } = useLoaded((signal) => get(`/v1/webhooks/${id}/deliveries`, { signal }), [id], EVERY);
  const resend = (delivery) => act(async () => { await post(`/v1/webhooks/${id}/deliveries/${delivery.id}/redeliver`); again(); });
  return html`<${Problem} error=${error} />${!data && !error && html`<${Loading} label="Loading what was sent" />`}
    ${data?.data.length === 0 && html`<p class="help">Nothing was sent yet.</p>`}
    ${data?.data.length > 0 && html`<${Table} caption="The last messages" head=${["Event", "State", "Answer", "Attempts", "Sent", "~Send again"]}>${data.data.map((one) => html`<tr key=${one.id}>
      <td>${one.type}${one.job_id && html`<br /><a href=${`/jobs/${one.job_id}`}>${one.job_id}</a>`}${one.sweep_id && html`<br /><a href=${`/sweeps/${one.sweep_id}`}>${one.sweep_id}</a>`}</td><td><span class=${`state ${one.state}`}><span class="dot" aria-hidden="true"></span>${one.state}</span></td>
      <td>${one.last_error ?? one.last_status ?? "–"}</td><td>${one.attempts}</td><td><${When} at=${one.last_attempt_at ?? one.created_at} /></td>
      <td>${one.state !== "pending" && html`<button type="button" class="quiet" onClick=${() => resend(one)}>Send again</button>`}</td></tr>`)}<//>`}`;
}

function NewWebhook({ events, standard, made }) {
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    try {
      made(await post("/v1/webhooks", { url: form.get("url"), events: form.getAll("event"), description: form.get("description") }));
      event.target.reset();
      setError(null);
    } catch (refused) {
      setError(refused);
    }
  };
  return html`<form class="card" onSubmit=${submit}><h2>New webhook</h2><div class="fields">
    <div class="field"><label for="hook-url">URL</label><input id="hook-url" name="url" type="url" required placeholder="https://example.com/hooks/eggs" /></div>
    <div class="field"><label for="hook-what">Description</label><input id="hook-what" name="description" maxlength="256" autocomplete="off" /></div></div>
    <fieldset class="group"><legend>Is told of</legend>${events.map((one) => html`<label key=${one} class="choice"><input type="checkbox" name="event" value=${one} defaultChecked=${standard.includes(one)} /><code>${one}</code></label>`)}</fieldset>
    <${Problem} error=${error} /><button type="submit" class="primary">Make the webhook</button></form>`;
}

export function Webhooks() {
  const { data, error, again } = useLoaded((signal) => get("/v1/webhooks?limit=100", { signal }), []);
  const document_ = useLoaded(openapi, []);
  const [open, setOpen] = useState(null);
  const [made, setMade] = useState(null);
  const [failure, setFailure] = useState(null);
  const [question, confirm] = useConfirm();
  useTitle("Webhooks");
  const act = async (action) => {
    setFailure(null);
    try {
      await action();
    } catch (refused) {
      setFailure(refused);
    }
  };
  const change = (hook, body) => act(async () => { await ask("PATCH", `/v1/webhooks/${hook.id}`, { body }); again(); });
  const ping = (hook) => act(async () => { await post(`/v1/webhooks/${hook.id}/ping`); setOpen(hook.id); });
  const rotate = async (hook) => {
    if (await confirm({ title: "Make a new secret?", text: "For a day messages are signed with the old one as well, so that receivers can change over.", yes: "Make a new secret" })) await act(async () => setMade(await post(`/v1/webhooks/${hook.id}/secret`)));
  };
  const remove = async (hook) => {
    if (await confirm({ title: "Delete this webhook?", text: `Nothing is sent to ${hook.url} any more, and what was sent is forgotten.`, yes: "Delete the webhook" })) await act(async () => { await ask("DELETE", `/v1/webhooks/${hook.id}`); again(); });
  };
  const schema = document_.data?.components.schemas;
  return html`<div class="title"><h1>Webhooks</h1></div>
    ${made && html`<div class="card made" role="status"><h2>The secret of ${made.url}</h2><p><strong>This is shown only once.</strong> The receiver checks signatures with it.</p><${Code} text=${made.secret} label="The secret" /><button type="button" onClick=${() => setMade(null)}>I have it</button></div>`}
    <${Problem} error=${failure ?? error} again=${error && again} />
    ${!data && !error && html`<${Loading} label="Loading webhooks" />`}
    ${data?.data.length === 0 && html`<${Empty} title="No webhooks"><p>Have an address of yours told when jobs start, succeed or fail, and when sweeps end.</p><//>`}
    ${data?.data.map((hook) => html`<section key=${hook.id} class="card hook"><div class="title"><h2>${hook.url}</h2><span class=${`state ${hook.enabled ? "succeeded" : "cancelled"}`}><span class="dot" aria-hidden="true"></span>${hook.enabled ? "enabled" : "disabled"}</span></div>
      <p class="sub">${hook.description || "No description"} · made <${When} at=${hook.created_at} /></p>${hook.disabled_reason && html`<p class="fault">${hook.disabled_reason}</p>`}
      <p class="tags">${hook.events.map((one) => html`<span key=${one} class="tag">${one}</span>`)}</p>
      <div class="actions"><button type="button" onClick=${() => ping(hook)} disabled=${!hook.enabled}>Send a ping</button><button type="button" onClick=${() => change(hook, { enabled: !hook.enabled })}>${hook.enabled ? "Disable" : "Enable"}</button>
        <button type="button" onClick=${() => rotate(hook)}>New secret</button><button type="button" class="danger" onClick=${() => remove(hook)}>Delete</button>
        <button type="button" class="quiet" aria-expanded=${String(open === hook.id)} onClick=${() => setOpen(open === hook.id ? null : hook.id)}>What was sent</button></div>
      ${open === hook.id && html`<${Deliveries} id=${hook.id} act=${act} />`}</section>`)}
    ${schema && html`<${NewWebhook} events=${schema.WebhookEventType.enum} standard=${schema.WebhookCreate.properties.events.default} made=${(hook) => { setMade(hook); again(); window.scrollTo(0, 0); }} />`}${question}`;
}
