// The mask of a layer as a picture, in tiles that the API draws: wheel, buttons and keys zoom, dragging and arrows pan.

import { html, useEffect, useMemo, useRef, useState } from "./preact.js";
import { bitmap, get } from "./api.js";
import { percent } from "./format.js";
import { Loading, Problem, useLoaded } from "./ui.js";

const TILE = 256;
const KEPT = 96; // tiles in memory
const ZOOMS = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32]; // pixels of the page for a weight
const GROUPS_FROM = 8; // so large groups are told apart by lines
const TOLD = 32; // weights of a row that are told as text

const limited = (value, low, high) => Math.max(low, Math.min(high, value));

// Of a picture in grey: its light as what covers the ground, and what each pixel says.
async function tileOf(url, signal) {
  const picture = await bitmap(url, { signal });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const drawing = canvas.getContext("2d", { willReadFrequently: true });
  drawing.drawImage(picture, 0, 0);
  const pixels = drawing.getImageData(0, 0, canvas.width, canvas.height);
  const grey = new Uint8Array(pixels.data.length / 4);
  for (let index = 0; index < grey.length; index += 1) {
    grey[index] = pixels.data[4 * index];
    pixels.data[4 * index + 3] = grey[index];
  }
  drawing.putImageData(pixels, 0, 0);
  return { canvas, width: canvas.width, grey };
}

// Tiles by their place and scale, fetched once; `redraw` is called when one has come.
class Tiles {
  constructor(url, redraw, failed) {
    Object.assign(this, { url, redraw, failed, found: new Map(), controller: new AbortController() });
  }

  at(row, column, scale) {
    const place = `row=${row * TILE * scale}&column=${column * TILE * scale}&scale=${scale}`;
    const known = this.found.get(place);
    if (known !== undefined) {
      this.found.delete(place);
      this.found.set(place, known); // the last that goes
      return known;
    }
    this.found.set(place, null);
    if (this.found.size > KEPT) this.found.delete(this.found.keys().next().value);
    tileOf(`${this.url}?${place}`, this.controller.signal).then(
      (tile) => { this.found.set(place, tile); this.redraw(); },
      (error) => { this.found.delete(place); if (!this.controller.signal.aborted) this.failed(error); },
    );
    return null;
  }

  // The share that is kept of the pixel in which a weight lies; null while it is not known.
  share(row, column, scale) {
    const [y, x] = [Math.floor(row / scale), Math.floor(column / scale)];
    const tile = this.found.get(`row=${Math.floor(y / TILE) * TILE * scale}&column=${Math.floor(x / TILE) * TILE * scale}&scale=${scale}`);
    return tile ? tile.grey[(y % TILE) * tile.width + (x % TILE)] / 255 : null;
  }
}

const scaleOf = (zoom) => Math.max(1, 1 / zoom);

function draw(canvas, tiles, view, shape, m) {
  const [rows, columns] = shape;
  const drawing = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const ratio = window.devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== width * ratio || canvas.height !== height * ratio) Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const { zoom, x, y } = view;
  const scale = scaleOf(zoom);
  const left = width / 2 - x * zoom, top = height / 2 - y * zoom; // where the first weight lies
  drawing.setTransform(ratio, 0, 0, ratio, 0, 0);
  drawing.globalCompositeOperation = "source-over";
  drawing.clearRect(0, 0, width, height);
  drawing.imageSmoothingEnabled = false;
  const size = TILE * scale * zoom;
  const range = (from, until, most) => [Math.max(0, Math.floor(from / size)), Math.min(Math.ceil(most / (TILE * scale)), Math.ceil(until / size))];
  const [firstRow, lastRow] = range(-top, height - top, rows), [firstColumn, lastColumn] = range(-left, width - left, columns);
  for (let row = firstRow; row < lastRow; row += 1) {
    for (let column = firstColumn; column < lastColumn; column += 1) {
      const tile = tiles.at(row, column, scale);
      if (tile) drawing.drawImage(tile.canvas, left + column * size, top + row * size, tile.canvas.width * scale * zoom, tile.canvas.height * scale * zoom);
    }
  }
  drawing.globalCompositeOperation = "source-in"; // kept weights take the ink
  drawing.fillStyle = style.color;
  drawing.fillRect(0, 0, width, height);
  drawing.globalCompositeOperation = "destination-over"; // and the rest the ground, where there is a matrix
  drawing.fillStyle = style.caretColor;
  drawing.fillRect(left, top, columns * zoom, rows * zoom);
  drawing.globalCompositeOperation = "source-over";
  drawing.strokeStyle = drawing.fillStyle = style.columnRuleColor;
  if (zoom >= GROUPS_FROM) {
    const from = Math.max(0, Math.floor(-left / zoom / m)), until = Math.min(columns / m, Math.ceil((width - left) / zoom / m));
    const [up, down] = [Math.max(0, top), Math.min(height, top + rows * zoom)];
    for (let group = from; group <= until; group += 1) drawing.fillRect(Math.round(left + group * m * zoom) - 1, up, 2, down - up);
  }
  drawing.strokeRect(left, top, columns * zoom, rows * zoom);
}

function Picture({ mask, pattern, layer, children }) {
  const [n, m] = pattern.split(":").map(Number);
  const [rows, columns] = mask.shape;
  const canvas = useRef();
  const [view, setView] = useState(null);
  const [at, setAt] = useState(null); // the weight under the pointer
  const [, come] = useState(0);
  const [error, setError] = useState(null);
  const [open, setOpen] = useState(0);
  const tiles = useMemo(() => new Tiles(mask.url, () => come((count) => count + 1), setError), [mask.url, open]);
  const dragged = useRef(null);
  useEffect(() => () => tiles.controller.abort(), [tiles]);

  const whole = () => {
    const fits = Math.min(canvas.current.clientWidth / columns, canvas.current.clientHeight / rows);
    return { zoom: ZOOMS.findLast((zoom) => zoom <= fits) ?? ZOOMS[0], x: columns / 2, y: rows / 2 };
  };
  useEffect(() => { setAt(null); setView(whole()); }, [mask.url]);
  useEffect(() => {
    const redraw = () => come((count) => count + 1);
    const watch = new ResizeObserver(redraw);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    watch.observe(canvas.current);
    dark.addEventListener("change", redraw);
    const chosen = new MutationObserver(redraw);
    chosen.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => { watch.disconnect(); chosen.disconnect(); dark.removeEventListener("change", redraw); };
  }, []);
  useEffect(() => { if (view) draw(canvas.current, tiles, view, mask.shape, m); });

  const moved = (next) => ({ ...next, x: limited(next.x, 0, columns), y: limited(next.y, 0, rows) });
  const pan = (right, down) => setView((before) => moved({ ...before, x: before.x + right / before.zoom, y: before.y + down / before.zoom }));
  // What is under `place`, pixels from the middle, stays there.
  const zoomBy = (steps, [right, down] = [0, 0]) => setView((before) => {
    const zoom = ZOOMS[limited(ZOOMS.indexOf(before.zoom) + steps, 0, ZOOMS.length - 1)];
    return moved({ zoom, x: before.x + right / before.zoom - right / zoom, y: before.y + down / before.zoom - down / zoom });
  });
  const fromMiddle = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  };
  const wheel = useRef();
  wheel.current = (event) => {
    // The page goes on scrolling until one has turned to the picture.
    if (document.activeElement !== canvas.current && !event.ctrlKey) return;
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 1 : -1, fromMiddle(event));
  };
  useEffect(() => {
    const heard = (event) => wheel.current(event);
    canvas.current.addEventListener("wheel", heard, { passive: false });
    return () => canvas.current?.removeEventListener("wheel", heard);
  }, []);
  const point = (event) => {
    const [right, down] = fromMiddle(event);
    if (dragged.current) {
      pan(dragged.current[0] - right, dragged.current[1] - down);
      dragged.current = [right, down];
      return;
    }
    const [row, column] = [Math.floor(view.y + down / view.zoom), Math.floor(view.x + right / view.zoom)];
    setAt(row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null);
  };
  const keys = (event) => {
    const step = canvas.current.clientHeight / 4;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    const zoom = { "+": 1, "=": 1, "-": -1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !(move || zoom || event.key === "Home")) return;
    event.preventDefault();
    setAt(null);
    if (move) pan(...move);
    else if (zoom) zoomBy(zoom);
    else setView(whole());
  };

  const scale = view ? scaleOf(view.zoom) : 1;
  const [row, column] = at ?? [limited(Math.floor(view?.y ?? 0), 0, rows - 1), limited(Math.floor(view?.x ?? 0), 0, columns - 1)];
  const told = tiles.share(row, column, scale);
  const until = (from, most) => Math.min(most, Math.floor(from / scale) * scale + scale) - 1;
  const where = scale === 1 ? `Row ${row}, column ${column}, group ${Math.floor(column / m)}`
    : `Rows ${Math.floor(row / scale) * scale} to ${until(row, rows)}, columns ${Math.floor(column / scale) * scale} to ${until(column, columns)}`;
  const what = told === null ? "" : scale === 1 ? (told ? "kept" : "pruned") : `the column that keeps fewest keeps ${percent(told)}`;
  const first = Math.floor(column / m) * m;
  const bits = scale === 1 && Array.from({ length: Math.min(columns - first, Math.ceil(TOLD / m) * m) }, (_, index) => tiles.share(row, first + index, 1));
  const groups = bits && bits.every((bit) => bit !== null) && bits.map((bit, index) => `${index && index % m === 0 ? " " : ""}${bit ? 1 : 0}`).join("");
  return html`<${Problem} error=${error} again=${() => { setError(null); setOpen((count) => count + 1); }} />
    <div class="mask-choice">${children}<div class="actions"><button type="button" aria-label="Zoom in" disabled=${view?.zoom === ZOOMS.at(-1)} onClick=${() => zoomBy(1)}>+</button>
      <button type="button" aria-label="Zoom out" disabled=${view?.zoom === ZOOMS[0]} onClick=${() => zoomBy(-1)}>−</button>
      <button type="button" onClick=${() => setView(whole())}>Whole layer</button>
      <button type="button" onClick=${() => setView((before) => ({ ...before, zoom: 16 }))}>Single weights</button>
      <span class="help">${view && (view.zoom >= 1 ? `${view.zoom} × ${view.zoom} pixels a weight` : `${scale} × ${scale} weights a pixel`)}</span></div></div>
    <canvas ref=${canvas} class="mask" tabindex="0" role="img" aria-describedby="mask-told"
      aria-label=${`Mask of ${mask.id}, ${rows} output by ${columns} input channels. Arrow keys pan, plus and minus zoom, Home shows all of it.`}
      onPointerDown=${(event) => { dragged.current = fromMiddle(event); event.target.setPointerCapture(event.pointerId); }}
      onPointerUp=${() => { dragged.current = null; }} onPointerCancel=${() => { dragged.current = null; }}
      onPointerMove=${point} onPointerLeave=${() => setAt(null)} onKeyDown=${keys}></canvas>
    <p class="told" id="mask-told" aria-live="polite">${where}${what && html`: <strong>${what}</strong>`}${groups && html`<br /><span class="help">From its group on, 1 for kept: </span><code>${groups}</code>`}</p>
    <p class="help">${rows} × ${columns} weights, of which each row keeps ${n} of every ${m}, here in colour. No input channel keeps fewer than ${layer.min_input_degree} of its ${rows}; ${layer.channels_cut_off} are cut off.
      ${scale > 1 ? " Where a pixel stands for several weights, it has as much colour as the column of them that keeps fewest." : ""}</p>`;
}

export function Masks({ report, id }) {
  const { data, error, again } = useLoaded((signal) => get(`/v1/jobs/${id}/masks`, { signal }), [id]);
  const [chosen, setChosen] = useState(0);
  const masks = data?.data ?? [];
  const mask = masks[chosen];
  const blocks = [...new Set(masks.map((one) => one.block))];
  return html`<section class="card"><h2>Masks</h2>
    <${Problem} error=${error} again=${again} />
    ${!data && !error && html`<${Loading} label="Loading the list of masks" />`}
    ${data && masks.length === 0 && html`<p class="help">Masks are drawn from the packed form, and this job left none.</p>`}
    ${mask && html`<${Picture} mask=${mask} pattern=${report.pattern} layer=${report.layers.find((layer) => layer.name === mask.id)}>
      <label class="inline">Layer <select value=${chosen} onChange=${(event) => setChosen(Number(event.target.value))}>
        ${blocks.map((block) => html`<optgroup key=${block} label=${`Block ${block}`}>${masks.map((one, index) => one.block === block && html`<option key=${one.id} value=${index}>${one.id}</option>`)}</optgroup>`)}</select></label><//>`}</section>`;
}
