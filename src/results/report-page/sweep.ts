/** Runs in the page of `sweep report`: sorts and filters the table that is there already, and draws the charts. */

import * as Plot from '@observablehq/plot';
import * as d3 from 'd3';
import { copyText, find, findAll, keepDrawn, nameChart, percent, sortRows } from './elements.ts';
import type { CurveData, PageData, PointData } from './sweep-data.ts';

const data: PageData = JSON.parse(find('#data').textContent ?? '');
const rows = findAll('#leaderboard tbody tr');
const points = new Map(data.points.map((point) => [point.name, point]));

/** What is shown: a text, a state and brushes let points through; pinned points or the one under the pointer stand out. */
const view = {
  text: '',
  state: '',
  brushes: new Map<Axis, (point: PointData) => boolean>(),
  pinned: new Set(data.best === null ? [] : [data.best]),
  hovered: null as string | null,
};

function isShown({ point: name = '', text = '', state }: DOMStringMap): boolean {
  const point = points.get(name);
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const inBrushes = [...view.brushes.values()].every((admits) => point !== undefined && admits(point));
  return words.every((word) => text.includes(word)) && (view.state === '' || state === view.state) && inBrushes;
}

function applyView(): void {
  const shown = new Set<string>();
  for (const row of rows) {
    row.hidden = !isShown(row.dataset);
    if (!row.hidden) shown.add(row.dataset.point ?? '');
  }
  const standsOut = view.hovered === null ? view.pinned : new Set([view.hovered]);
  for (const row of rows) {
    const { point = '' } = row.dataset;
    row.classList.toggle('on', standsOut.has(point));
    find('button', row).setAttribute('aria-pressed', String(view.pinned.has(point)));
  }
  for (const figure of findAll('figure')) figure.classList.toggle('hovering', view.hovered !== null);
  for (const line of findAll('.series')) {
    const { point: name = '' } = line.dataset;
    line.classList.toggle('out', rows.length > 0 && !shown.has(name));
    line.classList.toggle('on', standsOut.has(name));
    if (standsOut.has(name)) line.parentNode?.append(line); // above the others
  }
  find('#count').textContent = `${shown.size} of ${rows.length} points`;
  find('#pins').textContent = [...view.pinned].join(', ') || 'none; press a point in the table';
}

function hover(name: string | null): void {
  if (view.hovered === name) return;
  view.hovered = name;
  applyView();
}

const filter = find<HTMLInputElement>('#filter');
const stateFilter = find<HTMLSelectElement>('#state');

function listen(): void {
  for (const header of findAll('#leaderboard th'))
    find('button', header).addEventListener('click', () => sortRows(header, find('#leaderboard tbody'), rows));
  filter.addEventListener('input', () => {
    view.text = filter.value;
    applyView();
  });
  stateFilter.addEventListener('change', () => {
    view.state = stateFilter.value;
    applyView();
  });
  find('#clear').addEventListener('click', clearView);
  for (const row of rows) {
    const { point = '' } = row.dataset;
    row.addEventListener('pointerenter', () => hover(point));
    row.addEventListener('pointerleave', () => hover(null));
    find('button', row).addEventListener('click', () => {
      if (!view.pinned.delete(point)) view.pinned.add(point);
      applyView();
    });
  }
  const copy = document.querySelector('#copy'); // there once there is a best point
  copy?.addEventListener('click', () => copyText(find('#best-yaml'), copy));
}

function clearView(): void {
  Object.assign(view, { text: '', state: '', brushes: new Map() });
  filter.value = '';
  stateFilter.value = '';
  draw();
}

function colourScale(): (point: PointData | undefined) => string {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string): string => style.getPropertyValue(name).trim();
  const ends = [read('--low'), read('--high')] as const;
  const ramp = d3.scaleLinear(findRange(1), ends).interpolate(d3.interpolateLab);
  return (point) => (point === undefined || point.metric === null ? ends[0] : ramp(point.metric));
}

/** From the worst to the best point; of points that are all the same as wide as said. */
function findRange(width: number): [number, number] {
  const [low = 0, high = low] = d3.extent(data.points, ({ metric }) => metric ?? undefined);
  return [low, high === low ? low + width : high];
}

const isWhole = ({ state }: PointData): boolean => ['finished', 'running', 'stopped'].includes(state);

/** Names the paths of a line mark after their points, so that table and charts can point at each other. */
function nameSeries(chart: Element, curves: Map<string, CurveData>): void {
  for (const path of chart.querySelectorAll<SVGElement>('[aria-label="line"] path')) {
    const curve = curves.get(path.getAttribute('aria-label') ?? '');
    if (curve === undefined) continue;
    path.classList.add('series');
    path.dataset.point = curve.point;
    const point = points.get(curve.point);
    if (point === undefined || !isWhole(point)) path.setAttribute('stroke-dasharray', '5 3');
  }
}

interface Dot {
  step: number;
  value: number;
  trial: string;
  point: string;
}

function drawCurves(
  figure: HTMLElement,
  name: 'loss' | 'metric',
  label: string,
  format: (value: number) => string,
  domain?: [number, number],
): void {
  const colour = colourScale();
  const curves = new Map(data.curves.map((curve) => [curve.trial, curve]));
  const dots = data.curves.flatMap((curve) =>
    curve[name].map(([step, value]): Dot => ({ step, value, trial: curve.trial, point: curve.point })),
  );
  const tell = ({ point, trial, step, value }: Dot): string => `${point} (${trial})\nstep ${step}: ${format(value)}`;
  const at = { x: 'step', y: 'value' };
  const few =
    name === 'metric' ? [Plot.dot(dots, { ...at, r: 1.5, fill: (d: Dot) => colour(points.get(d.point)) })] : [];
  const chart = Plot.plot({
    width: Math.max(280, figure.clientWidth), // 0 while the page is being put away
    height: 300,
    marginLeft: 52,
    style: { background: 'transparent', fontSize: '12px' },
    x: { label: 'step', domain: [0, data.steps ?? d3.max(dots, ({ step }) => step) ?? 1], ticks: 5 },
    y: { label, grid: true, tickFormat: format, ...(domain === undefined ? {} : { domain }) },
    marks: [
      Plot.ruleX(data.rungs, { strokeDasharray: '2 3', strokeOpacity: 0.6 }),
      ...few,
      Plot.line(dots, {
        ...at,
        z: 'trial',
        stroke: (d: Dot) => colour(points.get(d.point)),
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
  nameChart(chart, `${label} of each trial over the steps`);
  find('.plot', figure).replaceChildren(chart);
}

/** The first steps of training, or a trial that diverges, would press all else flat: the highest two hundredths are cut. */
function lossDomain(): [number, number] {
  const losses = data.curves.flatMap((curve) => curve.loss.map(([, value]) => value)).sort(d3.ascending);
  return [Math.min(0, losses[0] ?? 0), losses.length === 0 ? 1 : 1.02 * (d3.quantileSorted(losses, 0.98) ?? 1)];
}

interface Axis {
  label: string;
  scale: d3.AxisScale<string> | d3.AxisScale<number>;
  y: (point: PointData) => number;
  format?: (value: number) => string;
}

/** Few different values are points of an axis; many numbers are a range, logarithmic where they span decades. */
function makeAxis(key: string, label: string, bottom: number, top: number): Axis {
  const values = [...new Set(data.points.map(({ params }) => params[key]))];
  const present = values.filter((value) => value !== undefined);
  const numbers = present.filter((value) => typeof value === 'number');
  if (numbers.length <= 8 || numbers.length < present.length) {
    const sorted = present.sort((a, b) =>
      typeof a === 'number' && typeof b === 'number' ? a - b : d3.ascending(String(a), String(b)),
    );
    const names = [...(present.length < values.length ? ['–'] : []), ...sorted.map(String)];
    const scale = d3.scalePoint(names, [bottom, top]).padding(0.2);
    return { label, scale, y: ({ params }) => scale(params[key] === undefined ? '–' : String(params[key])) ?? bottom };
  }
  const [low = 0, high = 1] = d3.extent(numbers);
  const scale = (low > 0 && high / low > 20 ? d3.scaleLog : d3.scaleLinear)([low, high], [bottom, top]);
  const y = ({ params }: PointData): number => {
    const value = params[key];
    return typeof value === 'number' ? scale(value) : bottom + 12;
  };
  return { label, scale, y };
}

function makeMetricAxis(bottom: number, top: number): Axis {
  const scale = d3.scaleLinear(findRange(0.01), [bottom, top]);
  const y = ({ metric }: PointData): number => (metric === null ? bottom + 12 : scale(metric));
  return { label: data.metricLabel, scale, y, format: (value) => `${+(100 * value).toFixed(1)} %` };
}

function drawParallel(): void {
  const figure = find('#parallel .plot');
  const [height, top, side] = [330, 40, 70] as const;
  const bottom = height - 30;
  const axes = data.keys.map((key, index) => makeAxis(key, data.labels[index] ?? key, bottom, top));
  axes.push(makeMetricAxis(bottom, top));
  const width = Math.max(figure.clientWidth - 2, axes.length * 130);
  const place = d3.scalePoint(d3.range(axes.length), [side, width - side]);
  const x = (index: number): number => place(index) ?? side;
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
    .attr('stroke', (point) => colour(point))
    .attr('stroke-width', 1.6)
    .attr('stroke-dasharray', (point) => (isWhole(point) ? null : '5 3'))
    .attr('d', (point) => path(axes.map((axis, index): [number, number] => [x(index), axis.y(point)])))
    .on('pointerenter', (_event, point) => hover(point.name))
    .on('pointerleave', () => hover(null))
    .append('title')
    .text((point) => `${point.name}${point.metric === null ? '' : `: ${percent(point.metric)}`}`);
  axes.forEach((axis, index) => {
    drawAxis(svg.append('g').attr('transform', `translate(${x(index)},0)`), axis, bottom, top);
  });
  figure.replaceChildren(svg.node() ?? '');
}

function drawAxis(
  group: d3.Selection<SVGGElement, undefined, null, undefined>,
  axis: Axis,
  bottom: number,
  top: number,
): void {
  const ticks = axis.format
    ? d3.axisRight(axis.scale as d3.AxisScale<number>)
    : d3.axisLeft(axis.scale as d3.AxisScale<number>);
  const shorten = (value: d3.NumberValue | string): string =>
    Number.isNaN(Number(value)) ? String(value) : d3.format('.3~g')(Number(value));
  group.attr('class', 'axis').call(ticks.ticks(5).tickFormat((value) => (axis.format ?? shorten)(value)));
  const title = group.append('text').attr('class', 'title').attr('text-anchor', 'middle');
  title.attr('y', top - 20).text(axis.label);
  const brush = d3.brushY<undefined>().extent([
    [-14, top - 8],
    [14, bottom + 16],
  ]);
  brush.on('end', ({ selection }: { selection: [number, number] | null }) => {
    if (selection === null) view.brushes.delete(axis);
    else view.brushes.set(axis, (point) => axis.y(point) >= selection[0] && axis.y(point) <= selection[1]);
    applyView();
  });
  group.append('g').call(brush);
}

function draw(): void {
  view.brushes.clear();
  if (data.curves.length > 0) {
    drawCurves(find('#loss'), 'loss', 'loss', (value) => d3.format('.3~g')(value), lossDomain());
    drawCurves(find('#metric'), 'metric', data.metricLabel, (value) => `${+(100 * value).toFixed(1)} %`);
  }
  if (data.keys.length > 0 && data.points.length > 1) drawParallel();
  applyView();
}

document.documentElement.classList.add('js');
listen();
keepDrawn(draw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
