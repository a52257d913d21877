/** `sweep report`: one HTML page that works offline, and the leaderboard as CSV and JSON. */

import { createReadStream, existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { csvFormat } from 'd3-dsv';
import { stringify } from 'yaml';
import { showPath, UserError } from '../base/errors.ts';
import { writeWhole } from '../base/files.ts';
import { replaceKeys } from '../base/objects.ts';
import type { Report } from '../base/printer.ts';
import { readSweepFolder, type SweepView } from '../sweep/folder.ts';
import type { PointView } from '../sweep/leaderboard.ts';
import { renderPage } from './page.ts';
import { readPageScript } from './report-page/build.ts';
import type { CurveData } from './report-page/sweep-data.ts';
import { thinCurve } from './run-report/history.ts';
import type { Pruning } from './tables.ts';

const MAX_DRAWN_TRIALS = 200;

/** Writes report.html (or `output`), leaderboard.csv and leaderboard.json beside it. */
export async function writeReport(
  dir: string,
  report: Report,
  { output }: { output: string | undefined },
): Promise<void> {
  const view = readSweepFolder(dir);
  const file = resolve(output ?? join(view.dir, 'report.html'));
  const folder = dirname(file);
  if (!existsSync(folder))
    throw new UserError(`${showPath(file)}  its folder does not exist. Make it, or leave --output away.`);
  const begun = listBegun(view);
  const drawn = new Set(begun.slice(0, MAX_DRAWN_TRIALS));
  const history = await readHistory(view, drawn);
  const page = renderPage({
    view,
    ...history,
    numHidden: begun.length - drawn.size,
    bestYaml: readBest(view),
    written: new Date().toISOString(),
    script: await readPageScript('sweep'),
  });
  const rows = view.points.map((point) => listFields(point, view.keys));
  const files = { path: file, csv: join(folder, 'leaderboard.csv'), json: join(folder, 'leaderboard.json') };
  writeWhole(files.path, page);
  // An empty cell is a null.
  writeWhole(files.csv, `${csvFormat(rows)}\n`);
  writeWhole(files.json, `${JSON.stringify(rows, null, 2)}\n`);
  const about = { num_points: view.points.length, num_drawn: drawn.size, size_bytes: Buffer.byteLength(page) };
  report.event({ kind: 'reported', ...files, ...about });
}

/** The trials that have begun, the best points' first: as many are drawn as a page and an eye can bear. */
function listBegun({ points }: SweepView): string[] {
  return points.filter(({ state }) => state !== 'waiting').flatMap(({ trials }) => trials.map(({ name }) => name));
}

interface Trace {
  loss: Map<number, number>;
  metric: Map<number, number>;
}

interface History {
  curves: CurveData[];
  prunings: Pruning[];
  /** The list of the evaluations in the cohorts, as an event names it. */
  list: unknown;
}

/** Reads the cohorts' events, line by line. Steps that a resume repeated count once: the last. */
async function readHistory(view: SweepView, drawn: Set<string>): Promise<History> {
  const traces = new Map([...drawn].map((name): [string, Trace] => [name, { loss: new Map(), metric: new Map() }]));
  const prunings = new Map<string, Pruning>();
  const pointOf = new Map(view.trials.map(({ name, point }) => [name, point]));
  let list: unknown = null;
  for (const { name } of view.cohorts) {
    for await (const event of readEvents(join(view.dir, 'cohorts', name, 'events.jsonl'))) {
      const trace = traces.get(event.trial);
      if (event.kind === 'step') trace?.loss.set(event.step, event.loss ?? Number.NaN);
      if (event.kind === 'evaluated') {
        trace?.metric.set(event.step, event[view.sweep.metric] ?? Number.NaN);
        list = event.list ?? list;
      }
      const point = pointOf.get(event.trial);
      if (event.kind === 'dropped' && point !== undefined) prunings.set(event.trial, { ...event, cohort: name, point });
    }
  }
  const curves = [...traces].map(([trial, { loss, metric }]) => ({
    ...{ trial, point: pointOf.get(trial) ?? '' },
    ...{ loss: thinCurve(loss), metric: thinCurve(metric) },
  }));
  return {
    curves: curves.filter(({ loss, metric }) => loss.length + metric.length > 0),
    prunings: [...prunings.values()],
    list,
  };
}

interface TrialEvent extends Pruning {
  kind: string;
  loss?: number | null;
  top1?: number | null;
  top5?: number | null;
  map?: number | null;
  list?: unknown;
}

async function* readEvents(file: string): AsyncGenerator<TrialEvent> {
  if (!existsSync(file)) return;
  for await (const line of createInterface({ input: createReadStream(file) })) {
    if (!/"kind":"(step|evaluated|dropped)"/.test(line)) continue;
    try {
      yield JSON.parse(line) as TrialEvent;
    } catch {
      // torn by a kill, or being written: the cohort itself repeats it
    }
  }
}

/** The configuration of the best point; until the sweep has written it, the base with what the point changes. */
function readBest({ dir, best, sweep }: SweepView): string | null {
  const file = join(dir, 'best.yaml');
  if (existsSync(file)) return readFileSync(file, 'utf8');
  if (best === null || best.rank === null) return null;
  const config = replaceKeys({ extends: sweep.base }, Object.entries(best.params));
  return `# ${best.point}, the best so far\n${stringify(config)}`;
}

type Row = Record<string, string | number | boolean | null>;

function listFields(point: PointView, keys: string[]): Row {
  const { rank, state, step, top1, top5, map, numCounted, trials, params } = point;
  return {
    ...{ rank, point: point.point, state, step },
    ...{ top1_mean: top1?.mean ?? null, top1_spread: top1?.spread ?? null },
    ...{ top5_mean: top5?.mean ?? null, top5_spread: top5?.spread ?? null },
    ...(map === null ? {} : { map_mean: map.mean, map_spread: map.spread }),
    ...{ num_seeds: numCounted, trials: trials.map(({ name }) => name).join(' ') },
    ...Object.fromEntries(keys.map((key) => [key, params[key] ?? null])),
  };
}
