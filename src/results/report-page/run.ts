/** Runs in the page of `report`: the confusion matrix, the charts, and the tables that are there already. */

import * as Plot from '@observablehq/plot';
import * as d3 from 'd3';
import { copyText, find, findAll, keepDrawn, nameChart, sortRows } from './elements.ts';
import { startMatrix } from './matrix.ts';
import type { Bin, RunPageData } from './run-data.ts';

const data: RunPageData = JSON.parse(find('#data').textContent ?? '');
const tick = (value: number): string => `${+(100 * value).toFixed(1)} %`;

function drawChart(id: string, name: string, options: Plot.PlotOptions): void {
  const figure = document.querySelector<HTMLElement>(`#${id}`);
  if (figure === null) return;
  const chart = Plot.plot({
    width: Math.max(280, Math.min(620, figure.clientWidth)), // 0 while the page is being put away
    height: 280,
    marginLeft: 56,
    style: { background: 'transparent', fontSize: '12px' },
    ...options,
  });
  nameChart(chart, name);
  find('.plot', figure).replaceChildren(chart);
}

const STEPS = { label: 'step', domain: [0, data.steps ?? 1] as [number, number], ticks: 5 };
const LINE = { stroke: 'var(--high)', strokeWidth: 1.6 };

function drawCurve(id: string, name: string, points: [number, number][], label: string): void {
  const values = points.map(([, value]) => value);
  const domain: [number, number] = [Math.min(0, d3.min(values) ?? 0), 1.02 * (d3.max(values) ?? 1) || 1];
  const y = { label, grid: true, domain, tickFormat: d3.format('.3~g') };
  drawChart(id, name, { x: STEPS, y, marks: [Plot.line(points, LINE)] });
}

function drawMetric(): void {
  const points = data.metric;
  const known = points.filter(({ low }) => low !== null);
  const least = d3.min(points, ({ value, low }) => low ?? value) ?? 0;
  drawChart('metric', `${data.metricLabel} of ${points.length} evaluations over the steps`, {
    x: STEPS,
    y: { label: data.metricLabel, grid: true, tickFormat: tick, domain: [Math.max(0, least - 0.05), 1] },
    marks: [
      Plot.ruleX(known, { x: 'step', y1: 'low', y2: 'high', stroke: 'var(--low)', strokeWidth: 5 }),
      Plot.line(points, { x: 'step', y: 'value', ...LINE }),
      Plot.dot(points, { x: 'step', y: 'value', r: 3, fill: 'var(--high)' }),
      Plot.tip(
        points,
        Plot.pointer({ x: 'step', y: 'value', title: (d) => `step ${d.step}: ${tick(d.value)}`, fill: 'var(--card)' }),
      ),
    ],
  });
}

function drawReliability(): void {
  const { before, after } = data.reliability;
  const name = (bin: Bin): string => `${bin[2]} videos, ${tick(bin[3])} sure, ${tick(bin[4])} right`;
  const marks = (bins: Bin[], colour: string, dash: string): Plot.Markish[] => [
    Plot.line(bins, { x: '3', y: '4', stroke: colour, strokeWidth: 1.6, strokeDasharray: dash }),
    Plot.dot(bins, {
      x: '3',
      y: '4',
      r: (bin: Bin) => Math.sqrt(bin[2]),
      fill: colour,
      fillOpacity: 0.75,
      title: name,
    }),
  ];
  const symbols = ['as they are', ...(after === null ? [] : ['with the temperature'])];
  drawChart('reliability', 'Reliability: the share that is right over the probability', {
    height: 340,
    x: { label: 'probability', domain: [0, 1], tickFormat: tick, grid: true },
    y: { label: 'share that is right', domain: [0, 1], tickFormat: tick, grid: true },
    r: { range: [2, 11] },
    color: { legend: true, domain: symbols, range: ['var(--high)', 'var(--accent)'] },
    marks: [
      Plot.line(
        [
          [0, 0],
          [1, 1],
        ],
        { stroke: 'currentColor', strokeOpacity: 0.4, strokeDasharray: '3 4' },
      ),
      ...(after === null ? [] : marks(after, 'var(--accent)', '5 3')),
      ...marks(before, 'var(--high)', ''),
    ],
  });
}

function listenToClasses(): void {
  const rows = findAll('#classes tbody tr');
  const filter = find<HTMLInputElement>('#filter');
  const apply = (): void => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.dataset.text?.includes(word));
    find('#count').textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} classes`;
  };
  filter.addEventListener('input', apply);
  for (const header of findAll('#classes th'))
    find('button', header).addEventListener('click', () => sortRows(header, find('#classes tbody'), rows));
  apply();
}

function draw(): void {
  drawCurve('loss', 'Training loss over the steps', data.loss, 'loss');
  drawCurve('rate', 'Learning rate over the steps', data.rate, 'learning rate');
  drawMetric();
  drawReliability();
  matrix?.draw();
}

document.documentElement.classList.add('js');
const matrix = document.querySelector('#matrix') === null ? null : startMatrix(data);
listenToClasses();
find('#copy').addEventListener('click', () => copyText(find('#config-yaml'), find('#copy')));
keepDrawn(draw);
for (const query of ['(prefers-color-scheme: dark)', 'print'])
  matchMedia(query).addEventListener('change', () => matrix?.draw());
