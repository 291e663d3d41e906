// Links that show one job to whoever has them: making and ending them, and the page that they open.

import { html, useState } from "./preact.js";
import { ask, get, openLink, post } from "./api.js";
import { moment } from "./format.js";
import { Code, Problem, Table, Waiting, When, useConfirm, useLoaded, useTitle } from "./ui.js";

const DAYS = [1, 7, 30];

export function Links({ id }) {
  const path = `/v1/jobs/${id}/shares`;
  const { data, error, again } = useLoaded((signal) => get(path, { signal }), [id]);
  const [days, setDays] = useState(7);
  const [made, setMade] = useState(null);
  const [failure, setFailure] = useState(null);
  const [question, confirm] = useConfirm();
  const act = async (action) => {
    setFailure(null);
    try {
      await action();
      again();
    } catch (refused) {
      setFailure(refused);
    }
  };
  const make = (event) => {
    event.preventDefault();
    act(async () => setMade(await post(path, { expires_at: new Date(Date.now() + days * 86400e3).toISOString() })));
  };
  const end = async (link) => {
    if (!await confirm({ title: "End this link?", text: "Whoever has it sees the job no more.", yes: "End the link" })) return;
    await act(async () => { await ask("DELETE", `${path}/${link.id}`); if (made?.id === link.id) setMade(null); });
  };
  const over = (link) => new Date(link.expires_at) < new Date();
  const links = data?.data ?? [];
  return html`<section class="card"><h2>Share</h2>
    <p class="help">A link shows this job, its report and its files to whoever has it, without a key. It can change nothing and opens nothing else.</p>
    <${Problem} error=${failure ?? error} again=${error && again} />
    ${made && html`<div class="card made" role="status"><p><strong>This is shown only once.</strong> It is good until ${moment(made.expires_at)}.</p>
      <${Code} text=${location.origin + made.url} label="The link" /><button type="button" onClick=${() => setMade(null)}>I have it</button></div>`}
    ${links.length > 0 && html`<${Table} caption="Links to this job" head=${["Link", "Made", "Good until", "~End"]}>${links.map((link) => html`<tr key=${link.id} class=${over(link) ? "over" : ""}>
      <td><code>${link.id}</code></td><td><${When} at=${link.created_at} /></td><td>${moment(link.expires_at)}</td>
      <td>${over(link) ? "over" : html`<button type="button" class="danger quiet" aria-label=${`End ${link.id}`} onClick=${() => end(link)}>End</button>`}</td></tr>`)}<//>`}
    <form class="actions" onSubmit=${make}><label class="inline">Good for <select value=${days} onChange=${(event) => setDays(Number(event.target.value))}>${DAYS.map((count) => html`<option key=${count} value=${count}>${count === 1 ? "a day" : `${count} days`}</option>`)}</select></label>
      <button type="submit">Make a link</button></form>${question}</section>`;
}

// The job of the link in the address. The part behind # stays in the browser.
export function Shared({ children }) {
  const token = location.hash.slice(1);
  return html`<${Opened} key=${token} token=${token}>${children}<//>`;
}

function Opened({ token, children }) {
  const { data, error, again } = useLoaded(() => openLink(token), []);
  useTitle("A shared job");
  if (!data) return html`<${Waiting} title="A shared job" error=${error} again=${again} lines=${6} label="Opening the link" />`;
  return html`<p class="notice">You see this job by a link, which is good until ${moment(data.expires_at)}.</p>${children(data.job_id, token)}`;
}
