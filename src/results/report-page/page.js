/* global d3, Plot */
// Runs in the page of `sweep report`: sorts and filters the table that is there already, and draws the charts.

const data = JSON.parse(document.getElementById('data').textContent);
const find = (selector) => document.querySelector(selector);
const findAll = (selector) => [...document.querySelectorAll(selector)];
const percent = (value) => `${(100 * value).toFixed(2)} %`;
const rows = findAll('#leaderboard tbody tr');
const points = new Map(data.points.map((point) => [point.name, point]));

/** What is shown: a text, a state and brushes let points through; pinned points or the one under the pointer stand out. */
const view = { text: '', state: '', brushes: new Map(), pinned: new Set(data.best ? [data.best] : []), hovered: null };

function isShown(name, text, state) {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const inBrushes = [...view.brushes.values()].every((admits) => admits(points.get(name)));
  return words.every((word) => text.includes(word)) && (view.state === '' || state === view.state) && inBrushes;
}

function applyView() {
  const shown = new Set();
  for (const row of rows) {
    const { point, text, state } = row.dataset;
    row.hidden = !isShown(point, text, state);
    if (!row.hidden) shown.add(point);
  }
  const standsOut = view.hovered === null ? view.pinned : new Set([view.hovered]);
  for (const row of rows) {
    row.classList.toggle('on', standsOut.has(row.dataset.point));
    row.querySelector('button').setAttribute('aria-pressed', String(view.pinned.has(row.dataset.point)));
  }
  for (const figure of findAll('figure')) figure.classList.toggle('hovering', view.hovered !== null);
  for (const line of findAll('.series')) {
    const name = line.dataset.point;
    line.classList.toggle('out', rows.length > 0 && !shown.has(name));
    line.classList.toggle('on', standsOut.has(name));
    if (standsOut.has(name)) line.parentNode.append(line); // above the others
  }
  find('#count').textContent = `${shown.size} of ${rows.length} points`;
  find('#pins').textContent = [...view.pinned].join(', ') || 'none; press a point in the table';
}

function hover(name) {
  if (view.hovered === name) return;
  view.hovered = name;
  applyView();
}

function sortBy(header) {
  const body = find('#leaderboard tbody');
  const column = [...header.parentNode.children].indexOf(header);
  const descends = header.getAttribute('aria-sort') === 'ascending';
  for (const other of header.parentNode.children) other.removeAttribute('aria-sort');
  header.setAttribute('aria-sort', descends ? 'descending' : 'ascending');
  const cellOf = (row) => row.children[column].dataset.value;
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === '' || b === '') return a === '' ? 1 : -1; // what is missing stays below, whatever the direction
    const numeric = Number(a) - Number(b);
    const order = Number.isNaN(numeric) ? (a < b ? -1 : 1) : numeric;
    return descends ? -order : order;
  };
  body.append(...rows.toSorted((a, b) => compare(cellOf(a), cellOf(b))));
}

function listen() {
  for (const button of findAll('#leaderboard th button'))
    button.addEventListener('click', () => sortBy(button.parentNode));
  find('#filter').addEventListener('input', ({ target }) => {
    view.text = target.value;
    applyView();
  });
  find('#state').addEventListener('change', ({ target }) => {
    view.state = target.value;
    applyView();
  });
  find('#clear').addEventListener('click', clearView);
  for (const row of rows) {
    const { point } = row.dataset;
    row.addEventListener('pointerenter', () => hover(point));
    row.addEventListener('pointerleave', () => hover(null));
    row.querySelector('button').addEventListener('click', () => {
      if (!view.pinned.delete(point)) view.pinned.add(point);
      applyView();
    });
  }
  const copy = find('#copy');
  copy?.addEventListener('click', () => copyText(find('#best-yaml'), copy));
}

function clearView() {
  Object.assign(view, { text: '', state: '', brushes: new Map() });
  find('#filter').value = '';
  find('#state').value = '';
  draw();
}

/** A page opened from a disk may have no clipboard: then the text is selected, for the user to copy. */
async function copyText(source, button) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = document.execCommand('copy') ? 'Copied' : 'Selected: press Ctrl-C';
  }
  setTimeout(() => {
    button.textContent = 'Copy';
  }, 2000);
}

function colourScale() {
  const style = getComputedStyle(document.documentElement);
  const ends = ['--low', '--high'].map((name) => style.getPropertyValue(name).trim());
  const [low, high] = d3.extent(data.points, (point) => point.metric ?? undefined);
  const ramp = d3.scaleLinear([low ?? 0, high === low ? (low ?? 0) + 1 : high], ends).interpolate(d3.interpolateLab);
  return (point) => (point.metric === null ? ends[0] : ramp(point.metric));
}

/** Names the paths of a line mark after their points, so that table and charts can point at each other. */
function nameSeries(chart, curves) {
  for (const path of chart.querySelectorAll('[aria-label="line"] path')) {
    const curve = curves.get(path.getAttribute('aria-label'));
    if (curve === undefined) continue;
    path.classList.add('series');
    path.dataset.point = curve.point;
    const isWhole = ['finished', 'running', 'stopped'].includes(points.get(curve.point)?.state);
    if (!isWhole) path.setAttribute('stroke-dasharray', '5 3');
  }
}

function drawCurves(figure, name, label, format, domain) {
  const colour = colourScale();
  const curves = new Map(data.curves.map((curve) => [curve.trial, curve]));
  const dots = data.curves.flatMap((curve) =>
    curve[name].map(([step, value]) => ({ step, value, trial: curve.trial, point: curve.point })),
  );
  const tell = ({ point, trial, step, value }) => `${point} (${trial})\nstep ${step}: ${format(value)}`;
  const at = { x: 'step', y: 'value' };
  const few = name === 'metric' ? [Plot.dot(dots, { ...at, r: 1.5, fill: (d) => colour(points.get(d.point)) })] : [];
  const chart = Plot.plot({
    width: Math.max(280, figure.clientWidth), // 0 while the page is being put away
    height: 300,
    marginLeft: 52,
    style: { background: 'transparent', fontSize: '12px' },
    x: { label: 'step', domain: [0, data.steps ?? d3.max(dots, (dot) => dot.step) ?? 1], ticks: 5 },
    y: { label, grid: true, tickFormat: format, ...(domain === undefined ? {} : { domain }) },
    marks: [
      Plot.ruleX(data.rungs, { strokeDasharray: '2 3', strokeOpacity: 0.6 }),
      ...few,
      Plot.line(dots, {
        ...at,
        z: 'trial',
        stroke: (d) => colour(points.get(d.point)),
        strokeWidth: 1.4,
        ariaLabel: 'trial',
        clip: true,
      }),
      Plot.tip(
        dots,
        Plot.pointer({ ...at, title: tell, maxRadius: 30, fill: 'var(--card)', stroke: 'var(--line)', fontSize: 12 }),
      ),
    ],
  });
  chart.addEventListener('input', () => hover(chart.value?.point ?? null));
  chart.addEventListener('pointerleave', () => hover(null));
  nameSeries(chart, curves);
  figure.querySelector('.plot').replaceChildren(chart);
}

/** The first steps of training, or a trial that diverges, would press all else flat: the highest two hundredths are cut. */
function lossDomain() {
  const losses = data.curves.flatMap((curve) => curve.loss.map(([, value]) => value)).sort(d3.ascending);
  return losses.length === 0 ? [0, 1] : [Math.min(0, losses[0]), d3.quantileSorted(losses, 0.98) * 1.02];
}

/** Few different values are points of an axis; many numbers are a range, logarithmic where they span decades. */
function makeAxis(key, label, bottom, top) {
  const values = [...new Set(data.points.map((point) => point.params[key]))];
  const present = values.filter((value) => value !== undefined);
  const isRange = present.length > 8 && present.every((value) => typeof value === 'number');
  const axis = { key, label, of: (point) => point.params[key] };
  if (!isRange) {
    const sorted = present.sort((a, b) =>
      typeof a === 'number' && typeof b === 'number' ? a - b : d3.ascending(a, b),
    );
    const names = [...(present.length < values.length ? ['–'] : []), ...sorted.map(String)];
    const scale = d3.scalePoint(names, [bottom, top]).padding(0.2);
    return { ...axis, scale, y: (point) => scale(String(axis.of(point) ?? '–')) };
  }
  const [low, high] = d3.extent(present);
  const scale = (low > 0 && high / low > 20 ? d3.scaleLog : d3.scaleLinear)([low, high], [bottom, top]);
  return { ...axis, scale, y: (point) => (axis.of(point) === undefined ? bottom + 12 : scale(axis.of(point))) };
}

function makeMetricAxis(bottom, top) {
  const [low, high] = d3.extent(data.points, (point) => point.metric ?? undefined);
  const scale = d3.scaleLinear([low ?? 0, high === low ? (low ?? 0) + 0.01 : high], [bottom, top]);
  const y = (point) => (point.metric === null ? bottom + 12 : scale(point.metric));
  return { key: '', label: data.metricLabel, scale, y, format: (value) => `${+(100 * value).toFixed(1)} %` };
}

function drawParallel() {
  const figure = find('#parallel .plot');
  const [height, top, side] = [330, 40, 70];
  const bottom = height - 30;
  const axes = data.keys.map((key, index) => makeAxis(key, data.labels[index], bottom, top));
  axes.push(makeMetricAxis(bottom, top));
  const width = Math.max(figure.clientWidth - 2, axes.length * 130);
  const x = d3.scalePoint(d3.range(axes.length), [side, width - side]);
  const colour = colourScale();
  const svg = d3.create('svg').attr('width', width).attr('height', height).attr('role', 'img');
  svg.attr('aria-label', 'Parallel coordinates: a line for each point, across the varied keys to its metric');
  const path = d3.line().curve(d3.curveBumpX);
  const drawn = data.points.filter((point) => point.drawn);
  svg
    .append('g')
    .attr('fill', 'none')
    .selectAll('path')
    .data(d3.sort(drawn, (point) => point.metric ?? -1))
    .join('path')
    .attr('class', 'series')
    .attr('data-point', (point) => point.name)
    .attr('stroke', colour)
    .attr('stroke-width', 1.6)
    .attr('stroke-dasharray', (point) => (['finished', 'running', 'stopped'].includes(point.state) ? null : '5 3'))
    .attr('d', (point) => path(axes.map((axis, index) => [x(index), axis.y(point)])))
    .on('pointerenter', (_, point) => hover(point.name))
    .on('pointerleave', () => hover(null))
    .append('title')
    .text((point) => `${point.name}${point.metric === null ? '' : `: ${percent(point.metric)}`}`);
  axes.forEach((axis, index) => {
    drawAxis(svg.append('g').attr('transform', `translate(${x(index)},0)`), axis, bottom, top);
  });
  figure.replaceChildren(svg.node());
}

function drawAxis(group, axis, bottom, top) {
  const ticks = (axis.format ? d3.axisRight : d3.axisLeft)(axis.scale).ticks(5);
  const shorten = (value) => (Number.isNaN(Number(value)) ? value : d3.format('.3~g')(value));
  group.attr('class', 'axis').call(ticks.tickFormat(axis.format ?? shorten));
  const title = group.append('text').attr('class', 'title').attr('text-anchor', 'middle');
  title.attr('y', top - 20).text(axis.label);
  const brush = d3.brushY().extent([
    [-14, top - 8],
    [14, bottom + 16],
  ]);
  brush.on('end', ({ selection }) => {
    if (selection === null) view.brushes.delete(axis);
    else view.brushes.set(axis, (point) => axis.y(point) >= selection[0] && axis.y(point) <= selection[1]);
    applyView();
  });
  group.append('g').call(brush);
}

function draw() {
  view.brushes.clear();
  if (data.curves.length > 0) {
    drawCurves(find('#loss'), 'loss', 'loss', d3.format('.3~g'), lossDomain());
    drawCurves(find('#metric'), 'metric', data.metricLabel, (value) => `${+(100 * value).toFixed(1)} %`);
  }
  if (data.keys.length > 0 && data.points.length > 1) drawParallel();
  applyView();
}

document.documentElement.classList.add('js');
listen();
draw();
let width = document.body.clientWidth;
addEventListener('resize', () => {
  if (document.body.clientWidth === width) return; // a phone's address bar comes and goes
  width = document.body.clientWidth;
  draw();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
