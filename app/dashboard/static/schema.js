// A form made from a JSON schema, and what the schema says of a value while one types it.

import { html, useState } from "./preact.js";
import { Text } from "./ui.js";

const REF = "#/components/schemas/";

// The schema itself, with what stands beside a reference to it, and whether null may take its place.
export function resolve(schema, all) {
  const { $ref, anyOf, ...own } = schema;
  if ($ref) return { ...resolve(all[$ref.slice(REF.length)], all), ...own };
  if (!anyOf) return own;
  const options = anyOf.map((option) => resolve(option, all));
  const real = options.filter((option) => option.type !== "null");
  const nullable = real.length < options.length;
  return real.length === 1 ? { ...real[0], ...own, nullable } : { ...own, options: real, nullable };
}

const kind = (schema) => schema.type ?? (schema.enum ? "string" : schema.options ? "options" : "object");

function fault(schema, value) {
  switch (kind(schema)) {
    case "options": {
      const faults = schema.options.map((option) => ("const" in option ? (value === option.const ? null : `be ${option.const}`) : fault(option, value)));
      return faults.includes(null) ? null : `Should ${faults.map((one) => one.replace(/^Should /, "")).join(", or ")}.`.replace(/\.(,|\.)/g, "$1");
    }
    case "integer": case "number":
      if (typeof value !== "number" || !Number.isFinite(value)) return `Should be a ${schema.type === "integer" ? "whole " : ""}number.`;
      if (schema.type === "integer" && !Number.isInteger(value)) return "Should be a whole number.";
      if (value < schema.minimum) return `Should be ${schema.minimum} or more.`;
      if (value > schema.maximum) return `Should be ${schema.maximum} or less.`;
      if (value <= schema.exclusiveMinimum) return `Should be more than ${schema.exclusiveMinimum}.`;
      if (value >= schema.exclusiveMaximum) return `Should be less than ${schema.exclusiveMaximum}.`;
      return null;
    case "string":
      if (typeof value !== "string") return "Should be text.";
      if (schema.enum && !schema.enum.includes(value)) return `Should be one of ${schema.enum.join(", ")}.`;
      if (value.length < schema.minLength) return "Should not be empty.";
      if (value.length > schema.maxLength) return `Should have ${schema.maxLength} characters at most.`;
      if (schema.pattern && !new RegExp(schema.pattern, "u").test(value)) return `Should look like ${schema.examples?.[0] ?? schema.pattern}.`;
      return null;
    default:
      return null;
  }
}

// Every fault of a value, by the JSON pointer of its place.
export function faults(schema, value, all, at = "") {
  const one = resolve(schema, all);
  if (value === undefined || (value === null && one.nullable)) return [];
  const found = [];
  if (one.type === "object" && one.properties) {
    for (const name of one.required ?? []) if (value[name] === undefined) found.push([`${at}/${name}`, "This is needed."]);
    for (const [name, part] of Object.entries(one.properties)) found.push(...faults(part, value[name], all, `${at}/${name}`));
  } else if (one.type === "object") {
    for (const [name, part] of Object.entries(value)) {
      if (name === "") found.push([at, "Each needs a name."]);
      if (name.length > one.propertyNames?.maxLength) found.push([at, `Names should have ${one.propertyNames.maxLength} characters at most.`]);
      found.push(...faults(one.additionalProperties, part, all, at));
    }
    if (Object.keys(value).length > one.maxProperties) found.push([at, `There should be ${one.maxProperties} at most.`]);
  } else if (one.type === "array") {
    if (value.length > one.maxItems) found.push([at, `There should be ${one.maxItems} at most.`]);
    if (value.length < one.minItems) found.push([at, `There should be ${one.minItems} at least.`]);
    value.forEach((part, index) => {
      const below = faults(one.items, part, all, `${at}/${index}`);
      const simple = resolve(one.items, all).type !== "object";
      found.push(...below.map(([place, message]) => [simple ? at : place, message]));
    });
  } else {
    const message = fault(one, value);
    if (message) found.push([at, message]);
  }
  return found;
}

const words = (name) => name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
const shown = (value) => (value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : String(value));

function parsed(schema, text) {
  if (text === "") return undefined;
  const types = schema.options ? schema.options.map((option) => option.type) : [schema.type];
  return types.some((type) => type === "integer" || type === "number") && /^-?(\d+\.?\d*|\.\d+)(e-?\d+)?$/i.test(text.trim()) ? Number(text) : text;
}

// Of a text that tells of each choice, as "`a`: this. `b`: that.", what all have in common and what is chosen.
function told(text, choices, chosen) {
  const [common, ...parts] = (text ?? "").split(new RegExp(`(?=\`(?:${choices.join("|")})\`: )`));
  return [common.trim(), parts.find((part) => part.startsWith(`\`${chosen}\`: `))].filter(Boolean).join(" ");
}

function Help({ id, text, messages }) {
  return html`${messages.length > 0 && html`<span class="fault" id=${`${id}-fault`}>${messages.join(" ")}</span>`}
    ${text && html`<span class="help" id=${`${id}-help`}><${Text} text=${text} /></span>`}`;
}

// Pairs of text, which may share a name for as long as one is typed.
function Pairs({ label, value, set }) {
  const [pairs, setPairs] = useState(Object.entries(value ?? {}));
  const put = (next) => {
    setPairs(next);
    set(next.length ? Object.fromEntries(next) : undefined);
  };
  const change = (index, pair) => put(pairs.map((old, other) => (other === index ? pair : old)));
  return html`${pairs.map(([key, text], index) => html`<div class="pair" key=${index}>
      <input aria-label=${`${label}: name ${index + 1}`} placeholder="name" value=${key} onInput=${(event) => change(index, [event.target.value, text])} />
      <input aria-label=${`${label}: value ${index + 1}`} placeholder="value" value=${text} onInput=${(event) => change(index, [key, event.target.value])} />
      <button type="button" class="quiet" aria-label=${`Remove ${key || "this pair"}`} onClick=${() => put(pairs.filter((_, other) => other !== index))}>Remove</button></div>`)}
    <button type="button" onClick=${() => put([...pairs, ["", ""]])}>Add a pair</button>`;
}

// `form`: {all: the schemas, value, change(pointer, value), messages(pointer), suggestions: choices by pointer}
export function Field({ schema, at, form, required = false }) {
  const one = resolve(schema, form.all);
  const name = at.split("/").at(-1);
  const id = `field${at.replaceAll("/", "-")}`;
  const label = words(name);
  const value = form.at(at);
  const messages = form.messages(at);
  const described = [messages.length && `${id}-fault`, one.description && `${id}-help`].filter(Boolean).join(" ") || undefined;
  const common = { id, "aria-describedby": described, "aria-invalid": messages.length ? "true" : undefined };
  const set = (next) => form.change(at, next);
  const description = one.enum ? told(one.description, one.enum, value ?? one.default) : one.description;
  const help = html`<${Help} id=${id} text=${description} messages=${messages} />`;

  if (one.type === "object" && one.properties) {
    const on = one.nullable ? (value === undefined ? one.default !== null && one.default !== undefined : value !== null) : true;
    return html`<fieldset class="group"><legend>${one.nullable
      ? html`<label><input type="checkbox" checked=${on} onChange=${(event) => set(event.target.checked ? {} : null)} />${label}</label>` : label}</legend>
      ${one.description && html`<p class="help"><${Text} text=${one.description} /></p>`}
      ${messages.length > 0 && html`<p class="fault">${messages.join(" ")}</p>`}
      ${on && html`<div class="fields">${Object.entries(one.properties).map(([part, below]) => html`<${Field} key=${part} schema=${below} at=${`${at}/${part}`}
        form=${form} required=${one.required?.includes(part)} />`)}</div>`}</fieldset>`;
  }
  if (one.type === "object") {
    return html`<fieldset class="group"><legend>${label}</legend>${help}<${Pairs} label=${label} value=${value} set=${set} /></fieldset>`;
  }
  if (one.type === "array" && resolve(one.items, form.all).type === "object") {
    const items = value ?? [];
    const item = resolve(one.items, form.all);
    return html`<fieldset class="group"><legend>${label}</legend>${help}
      ${items.map((_, index) => html`<div class="pair" key=${index}>${Object.entries(item.properties).map(([part, below]) => html`<${Field} key=${part}
        schema=${below} at=${`${at}/${index}/${part}`} form=${form} required=${item.required?.includes(part)} />`)}
        <button type="button" class="quiet" onClick=${() => set(items.filter((__, other) => other !== index))}>Remove</button></div>`)}
      <button type="button" onClick=${() => set([...items, first(item, form.all)])}>Add one</button></fieldset>`;
  }
  if (one.type === "boolean" && !one.nullable) {
    return html`<div class="field check"><label for=${id}><input type="checkbox" ...${common} checked=${value ?? one.default} onChange=${(event) => set(event.target.checked)} />${label}</label>${help}</div>`;
  }
  let control;
  if (one.enum || one.type === "boolean") {
    const choices = one.enum ?? [true, false];
    const standard = one.default ?? null;
    const left = !required && (value === undefined || value === null || value === standard); // to the default, which is one choice
    control = html`<select ...${common} value=${left ? "" : String(value ?? "")} required=${required}
      onChange=${(event) => set(event.target.value === "" ? undefined : one.type === "boolean" ? event.target.value === "true" : event.target.value)}>
      ${!required && html`<option value="">${standard === null ? "as the method has it" : `${standard} (default)`}</option>`}
      ${choices.filter((choice) => required || choice !== standard).map((choice) => html`<option key=${choice} value=${String(choice)}>${one.type === "boolean" ? (choice ? "yes" : "no") : choice}</option>`)}</select>`;
  } else if (one.type === "array") {
    control = html`<textarea ...${common} rows="2" placeholder=${shown(one.default)} value=${(value ?? []).join("\n")}
      onInput=${(event) => set(event.target.value.trim() === "" ? undefined : event.target.value.split("\n"))}></textarea>`;
  } else {
    const choices = form.suggestions[at];
    const unlimited = one.nullable && one.default !== null && one.default !== undefined;
    control = html`<input ...${common} type=${one.writeOnly ? "password" : "text"} autocomplete="off" spellcheck="false" required=${required}
      inputmode=${one.type === "integer" ? "numeric" : one.type === "number" ? "decimal" : undefined}
      placeholder=${shown(one.default) || (required ? one.examples?.[0] ?? "" : "")} list=${choices && `${id}-list`} disabled=${unlimited && value === null}
      value=${shown(value)} onInput=${(event) => set(parsed(one, event.target.value))} />
      ${choices && html`<datalist id=${`${id}-list`}>${choices.map((choice) => html`<option key=${choice} value=${choice} />`)}</datalist>`}
      ${unlimited && html`<label class="inline"><input type="checkbox" checked=${value === null} onChange=${(event) => set(event.target.checked ? null : undefined)} />all</label>`}`;
  }
  return html`<div class="field"><label for=${id}>${label}${required && html` <span class="needed">needed</span>`}</label>${control}
    ${one.type === "array" && html`<span class="help">One on each line.</span>`}${help}</div>`;
}

const first = (schema, all) => Object.fromEntries((schema.required ?? []).map((name) => {
  const one = resolve(schema.properties[name], all);
  return [name, one.enum ? one.enum[0] : ""];
}));

// The value with another one at a pointer; what is undefined is left out.
export function changed(value, pointer, next) {
  const [name, ...rest] = pointer.split("/").slice(1);
  if (name === undefined) return next;
  const copy = Array.isArray(value) ? [...value] : { ...value };
  const below = rest.length ? changed(copy[name] ?? {}, `/${rest.join("/")}`, next) : next;
  if (below === undefined) delete copy[name];
  else copy[name] = below;
  return copy;
}

export const at = (value, pointer) => pointer.split("/").slice(1).reduce((part, name) => part?.[name], value);
