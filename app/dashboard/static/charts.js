// Charts as SVG: hover or arrow keys tell each point, and every chart can be had as picture, CSV or table.

import { html, useMemo, useRef, useState } from "./preact.js";
import { number } from "./format.js";
import { save } from "./ui.js";

const WIDTH = 560, HEIGHT = 240, LEFT = 52, RIGHT = 10, TOP = 10, BOTTOM = 34;
const SHAPES = [
  (x, y) => `M${x - 3.5},${y}a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0`,
  (x, y) => `M${x - 3},${y - 3}h6v6h-6z`,
  (x, y) => `M${x},${y - 4}l4,7h-8z`,
  (x, y) => `M${x},${y - 4.2}l4.2,4.2l-4.2,4.2l-4.2,-4.2z`,
];
const COLOURS = 8;

function ticks(low, high, wanted = 4) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

// As many decimals as tell one tick from the next.
function ticked(value, all) {
  const step = all.length > 1 ? all[1] - all[0] : value || 1;
  return Number(value.toFixed(Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(Math.abs(step))))))).toLocaleString("en", { maximumFractionDigits: 8 });
}

function scales(series, reference) {
  const points = series.flatMap((one) => one.points);
  const values = points.map((point) => point.y).concat(reference ? [reference.y] : []);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  // What differs by less than a hundredth is drawn as what it is: all but the same.
  const room = Math.max((high - low) * 0.08, (Math.abs(high) * 0.02 - (high - low)) / 2) || 1;
  low = low >= 0 ? Math.max(0, low - room) : low - room;
  high += room;
  const last = Math.max(1, ...points.map((point) => point.x));
  return {
    low, high, last,
    x: (value) => LEFT + (value / last) * (WIDTH - LEFT - RIGHT),
    y: (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM),
  };
}

// A picture that stands alone: what the style sheet says of it is written into it.
function asPicture(svg, title) {
  const copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, index) => {
    const style = getComputedStyle(originals[index]);
    for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family"]) {
      node.setAttribute(name, style.getPropertyValue(name));
    }
    node.removeAttribute("class");
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", WIDTH);
  copy.setAttribute("height", HEIGHT);
  copy.removeAttribute("tabindex");
  const name = document.createElementNS("http://www.w3.org/2000/svg", "title");
  name.textContent = title;
  copy.prepend(name);
  return new XMLSerializer().serializeToString(copy);
}

const cell = (text) => (/[",\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : text);
const asCsv = (series, y) => [["series", "block", "layer", y], ...series.flatMap((one) => (
  one.points.map((point) => [one.name, point.x, point.label, point.y])))].map((row) => row.map(cell).join(",")).join("\n");

// `series`: [{name, points: [{x, y, label}]}]; `reference`: {y, name}, a line to compare with.
export function Chart({ title, help, y, series, reference, file }) {
  const shown = series.filter((one) => one.points.length > 0);
  const [hidden, setHidden] = useState([]);
  const [at, setAt] = useState(null);
  const [table, setTable] = useState(false);
  const svg = useRef();
  const drawn = shown.map((one, index) => ({ ...one, index })).filter((one) => !hidden.includes(one.name));
  const scale = useMemo(() => (drawn.length ? scales(drawn, reference) : null), [series, hidden]);
  if (shown.length === 0) return null;
  const points = drawn.flatMap((one) => one.points.map((point) => ({ ...point, series: one.name, index: one.index })));
  const nearest = (event) => {
    const box = svg.current.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const y_ = ((event.clientY - box.top) / box.height) * HEIGHT;
    const far = (point) => (scale.x(point.x) - x) ** 2 + (scale.y(point.y) - y_) ** 2;
    setAt(points.reduce((best, _, index) => (far(points[index]) < far(points[best]) ? index : best), 0));
  };
  const step = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!by) return;
    event.preventDefault();
    setAt(Math.min(points.length - 1, Math.max(0, (at ?? -1) + by)));
  };
  const toggle = (name) => {
    setAt(null);
    setHidden(hidden.includes(name) ? hidden.filter((other) => other !== name) : [...hidden, name]);
  };
  const point = at === null ? null : points[at];
  const told = point && `${point.label}: ${number(point.y, 4)}`;
  return html`<figure class="chart">
    <figcaption><strong>${title}</strong><span>${help}</span></figcaption>
    ${table ? html`<div class="wide short" tabindex="0" role="region" aria-label=${`${title}, as a table`}><table>
        <thead><tr><th scope="col">Layer</th><th scope="col">${y}</th></tr></thead>
        <tbody>${points.map((one) => html`<tr><td>${one.label}</td><td>${number(one.y, 4)}</td></tr>`)}</tbody></table></div>`
    : scale && html`<div class="plot">
      <svg ref=${svg} viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" tabindex="0"
        aria-label=${`${title} by block. Arrow keys go from point to point.`}
        onPointerMove=${nearest} onPointerLeave=${() => setAt(null)} onBlur=${() => setAt(null)} onKeyDown=${step}>
        ${ticks(scale.low, scale.high).map((value, _, all) => html`<g key=${value}>
          <line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${scale.y(value)} y2=${scale.y(value)} />
          <text class="tick" x=${LEFT - 6} y=${scale.y(value) + 4} text-anchor="end">${ticked(value, all)}</text></g>`)}
        ${ticks(0, scale.last, 6).filter(Number.isInteger).map((value) => html`<text key=${value} class="tick"
          x=${scale.x(value)} y=${HEIGHT - BOTTOM + 16} text-anchor="middle">${value}</text>`)}
        <text class="tick" x=${(LEFT + WIDTH - RIGHT) / 2} y=${HEIGHT - 3} text-anchor="middle">block</text>
        ${reference && html`<line class="reference" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${scale.y(reference.y)} y2=${scale.y(reference.y)} />
          <text class="tick" x=${WIDTH - RIGHT} y=${scale.y(reference.y) - 4} text-anchor="end">${reference.name}</text>`}
        ${drawn.map((one) => html`<g key=${one.name} class="series colour${one.index % COLOURS}">
          <path class="line" d=${one.points.map((p, index) => `${index ? "L" : "M"}${scale.x(p.x)},${scale.y(p.y)}`).join("")} />
          <path class="marks" d=${one.points.map((p) => SHAPES[one.index % SHAPES.length](scale.x(p.x), scale.y(p.y))).join("")} /></g>`)}
        ${point && html`<circle class="here" cx=${scale.x(point.x)} cy=${scale.y(point.y)} r="6.5" />`}
      </svg>
      ${point && html`<p class="tip" style=${{
        left: `${(scale.x(point.x) / WIDTH) * 100}%`, top: `${(scale.y(point.y) / HEIGHT) * 100}%`,
        transform: `translate(${scale.x(point.x) > WIDTH / 2 ? "calc(-100% - 12px)" : "12px"}, -50%)` }}>${told}</p>`}
      <p class="sr" aria-live="polite">${told}</p></div>`}
    <div class="legend">${shown.map((one, index) => html`<button key=${one.name} type="button" class="quiet"
        aria-pressed=${String(!hidden.includes(one.name))} onClick=${() => toggle(one.name)}>
        <svg class="series colour${index % COLOURS}" viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><path class="marks" d=${SHAPES[index % SHAPES.length](6, 6)} /></svg>${one.name}</button>`)}
      <span class="export">
        <button type="button" class="quiet" aria-pressed=${String(table)} onClick=${() => setTable(!table)}>Table</button>
        <button type="button" class="quiet" onClick=${() => save(`${file}.csv`, "text/csv", asCsv(drawn, y))} aria-label=${`${title} as CSV`}>CSV</button>
        ${!table && scale && html`<button type="button" class="quiet" aria-label=${`${title} as SVG`}
          onClick=${() => save(`${file}.svg`, "image/svg+xml", asPicture(svg.current, title))}>SVG</button>`}</span></div>
  </figure>`;
}

// Each figure of a layer that is drawn: how to have it, and how to read it.
export const METRICS = [
  { id: "relative-output-error", title: "Relative output error", help: "Of each layer's output on calibration text; less is better.", of: (layer) => layer.relative_output_error },
  { id: "kept-importance", title: "Importance kept", help: "As a share of the most that the pattern allows.", of: (layer) => layer.kept_importance },
  { id: "input-degree", title: "Fewest edges of an input channel", help: "0 means that a channel is cut off.", of: (layer) => layer.min_input_degree },
  { id: "ramanujan-ratio", title: "Second singular value / Ramanujan bound", help: "Up to 1 the mask spreads as well as the best sparse graphs.", of: (layer) => layer.second_singular_value / layer.ramanujan_bound, reference: { y: 1, name: "bound" } },
  { id: "sparsity", title: "Sparsity", help: "Share of weights that are zero.", of: (layer) => layer.sparsity },
];

const point = (layer, y) => ({ x: layer.block, y, label: layer.name });
const known = ({ y }) => y !== null && Number.isFinite(y);

export function byType(layers, metric) {
  const types = [...new Set(layers.map((layer) => layer.type))];
  return types.map((type) => ({
    name: type, points: layers.filter((layer) => layer.type === type).map((layer) => point(layer, metric.of(layer))).filter(known),
  }));
}

// The error of each block's outputs before its training and after it, of the blocks that were trained.
export function byTraining(training) {
  return [["before training", "error_before"], ["after training", "error_after"]].map(([name, of]) => ({
    name, points: training.map((trained) => ({ x: trained.block, y: trained[of], label: `block ${trained.block}, ${name}` })).filter(known),
  }));
}

// The mean over the layers of each block, or over those of one type.
export function byBlock(layers, metric, type) {
  const blocks = new Map();
  for (const layer of layers) {
    const y = metric.of(layer);
    if ((type && layer.type !== type) || y === null || !Number.isFinite(y)) continue;
    blocks.set(layer.block, [...(blocks.get(layer.block) ?? []), y]);
  }
  return [...blocks].sort(([a], [b]) => a - b).map(([x, ys]) => ({ x, y: ys.reduce((sum, y) => sum + y, 0) / ys.length }));
}
