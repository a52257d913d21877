/** `sweep status`: where a sweep stands, while it runs and after. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { showPath } from '../base/errors.ts';
import type { EventOf } from '../base/events/event.ts';
import { formatDuration, formatMean, formatTable, formatValue, percent } from '../base/format.ts';
import { findInterval, METRICS, mainMetric, otherMetric, showInterval } from '../base/intervals.ts';
import type { Report } from '../base/printer.ts';
import { plural, wrapWords } from '../base/words.ts';
import { judgeRun, readSavedStep } from '../run/liveness.ts';
import { readStatus, type StoredStatus } from '../run/status.ts';
import { type Incident, isSweepFolder, readSweepFolder, type SweepView, sumCost } from '../sweep/folder.ts';
import { type PointView, shortenKeys } from '../sweep/leaderboard.ts';

const REDRAW_SECONDS = 2;
const MAX_ROWS = 20; // a screen; the report holds all

/** Prints a sweep's state; with `watch` again and again, until the sweep has ended. */
export async function showStatus(dir: string, report: Report, { watch }: { watch: boolean }): Promise<void> {
  const redraws = watch && !report.json && isatty(1);
  const run = isSweepFolder(dir) ? undefined : readRun(dir);
  if (run !== undefined) return showRun(run, report);
  for (;;) {
    const view = readSweepFolder(dir);
    if (report.json) report.event(summariseView(view));
    else if (redraws) await report.redraw(describeView(view, report.width));
    else report.print(describeView(view, report.width));
    if (!watch || view.state !== 'running') return;
    await sleep(REDRAW_SECONDS * 1000);
  }
}

interface RunView {
  dir: string;
  state: string;
  savedStep: number | null;
  status: StoredStatus;
}

/** The folder of one training run has a status, too; undefined where there is none. */
function readRun(dir: string): RunView | undefined {
  const status = existsSync(join(dir, 'config.json')) ? readStatus(join(dir, 'status.json')) : undefined;
  if (status === undefined) return undefined;
  return { dir, state: judgeRun(status), savedStep: readSavedStep(dir), status };
}

function showRun({ dir, state, savedStep, status }: RunView, report: Report): void {
  const { pid, host, updated, trials } = status;
  const [step, steps] = [status.step ?? 0, status.steps ?? 0];
  if (report.json) {
    const about = { step, steps, saved_step: savedStep, trials, pid, host, updated };
    report.event({ kind: 'run_status', dir, state, ...about });
    return;
  }
  const gone = state === 'stopped' ? `; its process (${pid} on ${host}) is gone, last seen ${updated}` : '';
  const onwards = state === 'finished' || state === 'running' ? '' : '; the same `train` command goes on from there';
  const rows = Object.entries(trials).map(([name, trial]) => {
    const metric = mainMetric(trial);
    return [name, `${METRICS[metric]} ${percent(trial[metric])}`];
  });
  const saved = savedStep === null ? 'no checkpoint yet' : `step ${savedStep}${onwards}`;
  const facts = [[showPath(dir), `${state} at step ${step} of ${steps}${gone}`], ['saved', saved], ...rows];
  report.print(fitFacts(facts, report.width));
}

export function countStates(view: SweepView): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { state } of view.trials) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}

function summariseView(view: SweepView): EventOf<'sweep_status'> {
  const { sweep, state, message, began, updated, etaSeconds, cohorts, points, final, best, incidents } = view;
  const cost = sumCost(cohorts);
  return {
    ...{ kind: 'sweep_status', sweep: sweep.name, dir: view.dir, state, message, began, updated },
    ...{ eta_seconds: etaSeconds, metric: sweep.metric, counts: countStates(view) },
    num_points: sweep.num_points,
    cost: { seconds: cost.seconds, alone_seconds: cost.aloneSeconds },
    best: best?.point ?? null,
    final,
    cohorts: cohorts.map(({ nextRung, etaSeconds: eta, savedStep, ...cohort }) => ({
      ...cohort,
      next_rung: nextRung,
      saved_step: savedStep,
      eta_seconds: eta,
    })),
    leaderboard: points.map(({ numCounted, trials, ...point }) => ({
      ...point,
      num_seeds: numCounted,
      trials: trials.map(({ name }) => name),
    })),
    incidents: incidents.map((incident) => ({ ...incident })),
  };
}

const fits = (text: string, width: number): boolean => text.split('\n').every((line) => line.length <= width);

function fitFacts(rows: string[][], width: number): string {
  const table = formatTable(rows);
  return fits(table, width) ? table : rows.map((row) => wrapWords(row.join(' '), width)).join('\n');
}

/** Returns a table, on a terminal that is too narrow for it each row by itself: columns that wrap are not to be read. */
export function fitTable(rows: string[][], width: number): string {
  const table = formatTable(rows);
  if (fits(table, width)) return table;
  const [head = [], ...rest] = rows;
  const describe = (row: string[]): string =>
    row.flatMap((cell, column) => (['', '-'].includes(cell) ? [] : `${head[column]} ${cell}`)).join(', ');
  return rest.map((row) => wrapWords(describe(row), width)).join('\n');
}

function describeView(view: SweepView, width: number): string {
  const counts = Object.entries(countStates(view)).map(([state, count]) => `${count} ${state}`);
  const { seconds, aloneSeconds } = sumCost(view.cohorts);
  const times = aloneSeconds === null ? '' : ` (${(aloneSeconds / seconds).toFixed(1)} times)`;
  const alone = aloneSeconds === null ? '' : `; each trial alone: ${formatDuration(aloneSeconds)}${times}, forecast`;
  const eta = view.state === 'running' && view.etaSeconds !== null ? `, ${formatDuration(view.etaSeconds)} left` : '';
  const facts = [
    [view.sweep.name, `${view.state}${eta}`],
    ['points', `${new Set(view.trials.map(({ point }) => point)).size} of ${view.sweep.num_points}`],
    ['trials', counts.join(', ') || 'none yet'],
    ['cost', `${formatDuration(seconds)} of cohorts${alone}`],
    ['best', describeBest(view)],
  ];
  const [labels, ...tables] = [facts, listCohorts(view), listPoints(view)];
  const shown = [fitFacts(labels ?? [], width), ...tables.map((rows) => fitTable(rows, width))];
  const hidden = view.points.length - MAX_ROWS;
  const told = hidden > 0 ? [`... and ${plural(hidden, 'more point')}; all are in \`sweep report\``] : [];
  const failures = view.incidents.filter(({ isStop }) => !isStop);
  told.push(...failures.slice(-5).map((incident) => describeIncident(view, incident)));
  if (view.message !== null) told.push(view.message);
  return [...shown, ...told.map((text) => wrapWords(text, width))].filter(Boolean).join('\n\n');
}

/** One line; what more there is to say stands in the log. */
function describeIncident({ dir }: SweepView, { cohort, what, why, log }: Incident): string {
  const file = join(dir, cohort === 'final' ? 'final' : join('cohorts', cohort), 'cohort.log');
  return `${cohort}  ${what}: ${why}${log === null ? '' : `; its log is ${showPath(file)}`}`;
}

function describeBest({ best, final, sweep, numVideos }: SweepView): string {
  if (best === null) return 'none yet';
  const tested =
    final === null
      ? ''
      : `; ${percent(final[sweep.metric])} on the validation list (${plural(final.num_videos, 'video')})`;
  const chosen = sweep.selection === 'validation' ? 'validation list, which the choice was made on' : 'selection list';
  const mean = best[sweep.metric]?.mean;
  const interval =
    mean === undefined || numVideos === null ? '' : ` (95 %: ${showInterval(findInterval(mean, numVideos))})`;
  return `${best.point}: ${sweep.metric} ${formatMean(best[sweep.metric])}${interval} on the ${chosen}${tested}`;
}

function listCohorts({ cohorts }: SweepView): string[][] {
  const order = ['running', 'stopped', 'failed', 'waiting', 'cancelled', 'finished', 'split'];
  const shown = cohorts.toSorted((a, b) => order.indexOf(a.state) - order.indexOf(b.state)).slice(0, MAX_ROWS);
  const rows = shown.map(({ name, state, attempt, trials, step, steps, savedStep, nextRung, etaSeconds, seconds }) => [
    ...[name, state, String(attempt), String(trials.length)],
    ...[step === null ? '-' : `${step}/${steps ?? '?'}`, String(savedStep ?? '-'), String(nextRung ?? '-')],
    ...[formatDuration(seconds), etaSeconds === null ? '-' : formatDuration(etaSeconds)],
  ]);
  if (cohorts.length > MAX_ROWS)
    rows.push([`... and ${cohorts.length - MAX_ROWS} more`, '', '', '', '', '', '', '', '']);
  return [['cohort', 'state', 'attempt', 'trials', 'step', 'saved', 'next rung', 'took', 'left'], ...rows];
}

function listPoints({ points, keys, sweep }: SweepView): string[][] {
  const other = otherMetric(sweep.metric);
  const row = (point: PointView): string[] => [
    ...[point.rank === null ? '-' : String(point.rank), point.point, point.state],
    ...[formatMean(point[sweep.metric]), formatMean(point[other])],
    ...[`${point.numCounted}/${point.trials.length}`, point.step === null ? '-' : String(point.step)],
    ...keys.map((key) => formatValue(point.params[key])),
  ];
  const head = ['rank', 'point', 'state', sweep.metric, other, 'seeds', 'step', ...shortenKeys(keys)];
  return [head, ...points.slice(0, MAX_ROWS).map(row)];
}
