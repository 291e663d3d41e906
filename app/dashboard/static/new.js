// A new job: a form made from the API's own description of a request, with the request beside it.

import { html, useEffect, useMemo, useState } from "./preact.js";
import { get, openapi, post } from "./api.js";
import { navigate, useLocation } from "./router.js";
import { Loading, Problem, useLoaded, useTitle } from "./ui.js";
import { Request, requestOf } from "./requests.js";
import { Estimate } from "./estimate.js";
import { Field, at, changed, faults, resolve } from "./schema.js";

// What most people decide. All else the schema has is below, closed.
const FIRST = ["name", "model", "pattern", "method", "effort", "metadata"];

const within = (place, field) => place === field || place.startsWith(`${field}/`);

function Form({ schemas, models, initial }) {
  const schema = schemas.JobCreate;
  const [value, setValue] = useState(initial);
  const [touched, setTouched] = useState(new Set());
  const [refused, setRefused] = useState(null);
  const [busy, setBusy] = useState(false);
  const found = useMemo(() => faults(schema, value, schemas), [value]);
  const answered = (refused?.problem?.errors ?? []).filter((one) => one.pointer !== undefined);
  const form = {
    all: schemas,
    at: (pointer) => at(value, pointer),
    messages: (pointer) => [
      ...(touched === true || touched.has(pointer) ? found.filter(([place]) => place === pointer).map(([, message]) => message) : []),
      ...answered.filter((one) => one.pointer === pointer).map((one) => one.message)],
    change: (pointer, next) => {
      setValue((before) => changed(before, pointer, next));
      if (touched !== true) setTouched(new Set([...touched, pointer]));
      setRefused(null);
    },
    suggestions: { "/model": models, "/pattern": ["2:4", "4:8", "1:4", "8:16"] },
  };
  const submit = async (event) => {
    event.preventDefault();
    setTouched(true);
    if (found.length) {
      const first = document.getElementById(`field${found[0][0].replaceAll("/", "-")}`);
      first?.closest("details")?.setAttribute("open", "");
      first?.focus();
      return;
    }
    setBusy(true);
    try {
      navigate(`/jobs/${(await post("/v1/jobs", value)).id}`);
    } catch (error) {
      setRefused(error);
      setBusy(false);
      document.getElementById("refused")?.scrollIntoView({ block: "center" });
    }
  };
  const field = (name) => html`<${Field} key=${name} schema=${schema.properties[name]} at=${`/${name}`} form=${form} required=${schema.required.includes(name)} />`;
  const rest = Object.keys(schema.properties).filter((name) => !FIRST.includes(name));
  const isGroup = (name) => { const one = resolve(schema.properties[name], schemas); return (one.type === "object" && one.properties) || (one.type === "array" && resolve(one.items, schemas).type === "object"); };
  const wrong = (names) => touched === true && found.some(([place]) => names.some((name) => within(place, `/${name}`)));
  const more = rest.filter((name) => !isGroup(name));
  const general = refused && (answered.length === 0 ? refused : { title: refused.title, message: refused.message });
  return html`<div class="columns"><form class="card" onSubmit=${submit} noValidate>
      <div class="fields">${FIRST.filter((name) => schema.properties[name]).map(field)}</div>
      ${rest.filter(isGroup).map((name) => html`<details key=${name} class="section" open=${wrong([name]) || undefined}><summary>${name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase())}</summary>${field(name)}</details>`)}
      <details class="section" open=${wrong(more) || undefined}><summary>More options</summary><div class="fields">${more.map(field)}</div></details>
      <div id="refused"><${Problem} error=${general} /></div>
      <div class="actions"><button type="submit" class="primary" disabled=${busy}>${busy ? "Submitting…" : "Submit job"}</button>
        ${touched === true && found.length > 0 && html`<span class="fault" role="status">${found.length === 1 ? "One field needs" : `${found.length} fields need`} another value.</span>`}</div></form>
    <aside><${Estimate} request=${found.length ? null : value} model=${value.model} /><section class="card"><h2>The request</h2><p class="help">What is left out takes its default. The same job from a terminal or a program:</p><${Request} request=${value.hub_token ? { ...value, hub_token: "hf_…" } : value} /></section></aside></div>`;
}

export function NewJob() {
  const { query } = useLocation();
  const from = query.get("from");
  const document_ = useLoaded(openapi, []);
  const models = useLoaded((signal) => get("/v1/models", { signal }), []);
  const before = useLoaded((signal) => (from ? get(`/v1/jobs/${encodeURIComponent(from)}`, { signal }) : null), [from]);
  useTitle("New job");
  const schemas = document_.data?.components.schemas;
  const ready = schemas && (!from || before.data) && !models.loading;
  return html`<div class="title"><h1>New job</h1></div>
    ${from && before.data && html`<p class="sub">Starts from <a href=${`/jobs/${from}`}>${before.data.name ?? from}</a>.</p>`}
    <${Problem} error=${document_.error ?? before.error} again=${document_.error ? document_.again : before.again} />
    ${ready ? html`<${Form} key=${from} schemas=${schemas} models=${(models.data?.data ?? []).map((model) => model.id)} initial=${from ? requestOf(before.data) : {}} />`
    : !document_.error && !before.error && html`<${Loading} lines=${8} label="Loading the form" />`}`;
}
