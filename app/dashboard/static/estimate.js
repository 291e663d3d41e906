// What a request would take and leave, asked for a moment after the last change of it.

import { html, useEffect, useState } from "./preact.js";
import { post } from "./api.js";
import { duration, share, size } from "./format.js";
import { Text } from "./ui.js";

const PAUSE = 400;

function useEstimate(request) {
  const [state, setState] = useState({ data: null, error: null });
  const body = request && JSON.stringify({ ...request, hub_token: undefined });
  useEffect(() => {
    if (!body) {
      setState({ data: null, error: null });
      return undefined;
    }
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setState({ data: await post("/v1/estimates", JSON.parse(body), { signal: controller.signal }), error: null });
      } catch (error) {
        if (!controller.signal.aborted) setState({ data: null, error });
      }
    }, PAUSE);
    return () => { clearTimeout(timer); controller.abort(); };
  }, [body]);
  return state;
}

const Figure = ({ name, value, note }) => html`<div class="figure"><dt>${name}</dt><dd>${value}</dd><dd class="help">${note}</dd></div>`;

// `request`: null while it is not one that could be submitted, for want of a model or by what the form marks.
export function Estimate({ request, model }) {
  const { data, error } = useEstimate(request);
  let shown;
  if (error) shown = html`<p class="fault"><${Text} text=${error.message} /></p>`;
  else if (data) {
    const { sizes, memory, time } = data;
    const forms = sizes.dense_bytes && `Packed ${size(sizes.packed_bytes)}, ${share(sizes.packed_bytes / sizes.dense_bytes)} of the dense ${size(sizes.dense_bytes)}. `;
    const [low, high] = [duration(time.low), duration(time.high)];
    const spread = low !== high && `${low} to ${high}. `;
    shown = html`<dl class="estimate">
      <${Figure} name="Output" value=${sizes.output_bytes === null ? "Not known" : size(sizes.output_bytes)} note=${`${forms || ""}${sizes.basis}`} />
      <${Figure} name="Memory" value=${memory.bytes === null ? "Not known" : `${memory.at_least ? "At least " : ""}${size(memory.bytes)}`} note=${memory.basis} />
      <${Figure} name="Time" value=${time.seconds === null ? "Not known" : `About ${duration(time.seconds)}`} note=${`${spread || ""}${time.basis}`} /></dl>`;
  } else shown = html`<p class="help">${request ? "Estimating…" : model ? "Shown when each field has a value that fits." : "Choose a model to see what the job would leave and take."}</p>`;
  return html`<section class="card"><h2>Estimate</h2><div aria-live="polite">${shown}</div></section>`;
}
