/** The only file that prints: events as lines for people or as JSON lines, notes and progress on stderr. What comes from
 * outside is made safe for a terminal here (`makeSafe`), so that no caller has to think of it. */

import { Fenced, Interrupted, PythonBug, RuntimeFailure, UserError } from './errors.ts';
import { type RunEvent, stampEvent, type TimedEvent } from './events.ts';
import { findInterval, showInterval } from './intervals.ts';
import { type Colour, canMove, MovingLine, type Progress, paint, paintPlaces } from './terminal.ts';
import { makeSafe, plural } from './words.ts';

export interface ReportOptions {
  json?: boolean;
  /** The run folder's journal, when there is one. */
  journal?: (event: TimedEvent) => void;
}

const percent = (value: number): string => `${(100 * value).toFixed(2)} %`;

export class Report {
  readonly json: boolean;
  journal: ((event: TimedEvent) => void) | undefined;
  private line: MovingLine | undefined;

  constructor(options: ReportOptions = {}) {
    this.json = options.json ?? false;
    this.journal = options.journal;
  }

  event(event: RunEvent): void {
    const timed = stampEvent(event);
    this.journal?.(timed);
    const line = this.json ? JSON.stringify(timed) : describeEvent(timed);
    if (line !== undefined) this.print(line, this.json ? undefined : COLOURS[timed.kind]);
  }

  /** Events of one kind, one a trial; of many trials people get one line. */
  events(events: RunEvent[]): void {
    const [first, ...more] = events;
    if (first === undefined) return;
    const summarize = SUMMARIZE[first.kind];
    if (this.json || more.length === 0 || summarize === undefined) {
      for (const event of events) this.event(event);
      return;
    }
    const timed = events.map(stampEvent);
    for (const event of timed) this.journal?.(event);
    this.print(summarize(timed));
  }

  /** What the user asked for, on stdout. */
  print(text: string, colour?: Colour): void {
    this.line?.clear();
    const safe = makeSafe(text);
    process.stdout.write(`${colour === undefined ? safe : paint(safe, colour, process.stdout)}\n`);
  }

  /** What only a person wants to know, on stdout. */
  say(text: string): void {
    if (!this.json) this.print(text);
  }

  /** The same over what was drawn last: from the top left corner, each line to its end and what is below, so that nothing
   * flickers and nothing old stays. */
  redraw(text: string): void {
    process.stdout.write(`\x1b[H${makeSafe(text).replaceAll('\n', '\x1b[K\n')}\x1b[K\x1b[J\n`);
  }

  /** What the user should know besides, on stderr. */
  note(text: string): void {
    this.line?.clear();
    process.stderr.write(`${makeSafe(text)}\n`);
  }

  /** The same of what may be wrong. */
  warn(text: string): void {
    this.line?.clear();
    process.stderr.write(`${paintPlaces(makeSafe(text), 'yellow', process.stderr)}\n`);
  }

  /** From here on a line moves at the bottom of the terminal; elsewhere there is none. */
  enableProgress(): void {
    if (!this.json && canMove(process.stderr)) this.line = new MovingLine(process.stderr);
  }

  progress(what: string, value: number, total: number, more: Omit<Progress, 'what' | 'value' | 'total'> = {}): void {
    this.line?.show({ what, value, total, ...more });
  }

  /** What is being waited for, until something else is shown. */
  waiting(text: string): void {
    this.line?.tell(makeSafe(text));
  }

  endProgress(): void {
    this.line?.clear();
  }
}

/** Events on stdout that a person should not overlook. */
const COLOURS: Record<string, Colour> = {
  bad_video: 'yellow',
  restarted: 'yellow',
  dropped: 'yellow',
  left_out: 'yellow',
  split: 'yellow',
};

export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const total = Math.round(seconds);
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  return parts.map((part) => String(part).padStart(2, '0')).join(':');
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

/** Returns rows as lines of left-aligned columns. */
export function formatTable(rows: string[][]): string {
  const widths = rows.reduce<number[]>((most, row) => row.map((cell, i) => Math.max(most[i] ?? 0, cell.length)), []);
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** Prints how a command failed: on stderr for people, and as a `failed` event on stdout under `--json`. */
export function reportError(error: unknown, json: boolean): void {
  const known = error instanceof Error ? error : new Error(String(error));
  if (json && !(known instanceof Interrupted)) {
    const event = stampEvent({ kind: 'failed', where: known.name, message: known.message });
    process.stdout.write(`${makeSafe(JSON.stringify(event))}\n`);
  }
  const colour = known instanceof Interrupted ? 'yellow' : 'red';
  process.stderr.write(`${paintPlaces(makeSafe(describeError(known)), colour, process.stderr)}\n`);
}

function describeError(error: Error): string {
  if (error instanceof UserError || error instanceof Interrupted || error instanceof Fenced) return error.message;
  if (error instanceof RuntimeFailure) {
    const lines = error.lines.length > 0 ? ['The last lines it wrote:', ...error.lines.map((line) => `  ${line}`)] : [];
    return [error.message, ...lines].join('\n');
  }
  const trace = error instanceof PythonBug ? `${error.message}\n${error.traceback}` : error.stack;
  return `${trace}\nThis is a bug in coldframe. Please report it with the lines above and what \`coldframe doctor\` prints.`;
}

type Describe = (event: TimedEvent) => string | undefined;
const interval = (share: unknown, count: unknown): string => showInterval(findInterval(num(share), num(count)));
const num = (value: unknown): number => (typeof value === 'number' ? value : Number.NaN);

const DESCRIBE: Record<string, Describe> = {
  started: (e) => {
    const { total, trained } = e.parameters as { total: number; trained: number };
    const millions = (count: number): string => `${(count / 1e6).toFixed(1)} M`;
    const val = e.num_val === null ? '' : `, ${e.num_val} to evaluate on`;
    const clips = e.num_train === null ? 'generated clips' : `${plural(e.num_train, 'clip')} to train on`;
    return (
      `${e.backbone}: ${millions(total)} parameters, ${millions(trained)} of them trained; ${e.device}, ${e.precision}\n` +
      `${clips}${val}; ${plural(e.steps, 'step')} of ${plural(e.batch_size, 'clip')}` +
      (num(e.step) === 0 ? '' : `, going on at step ${e.step}`)
    );
  },
  step: (e) => {
    const waiting = num(e.data_seconds) / num(e.step_seconds);
    const trial = e.trial === 'main' ? '' : ` ${e.trial}`;
    const eta = formatDuration(num(e.eta_seconds));
    return (
      `step ${e.step}/${e.steps}${trial}  loss ${num(e.loss).toFixed(4)}  top-1 ${percent(num(e.top1))}  lr ${num(e.lr).toExponential(2)}` +
      `  ${num(e.clips_per_second).toFixed(1)} clips/s  waiting for data ${percent(waiting)}  ETA ${eta}`
    );
  },
  evaluated: (e) =>
    `evaluated at step ${e.step}: top-1 ${percent(num(e.top1))} (95 %: ${interval(e.top1, e.num_videos)}), top-5 ${percent(num(e.top5))} on ${plural(e.num_videos, 'video')}, ${plural(e.views, 'view')}` +
    (e.num_bad ? `; ${plural(e.num_bad, 'video')} could not be read` : '') +
    (e.trial === 'main' ? '' : ` (${e.trial})`) +
    (e.output === undefined ? '' : `\nresult.json and scores.npz are in ${e.output}`),
  averaged: (e) => {
    const members = e.members as { path: string; top1: number; top5: number }[];
    const lines = [...members, { path: 'mean of all', top1: num(e.top1), top5: num(e.top5) }];
    return lines.map((m) => `top-1 ${percent(m.top1)}, top-5 ${percent(m.top5)}  ${m.path}`).join('\n');
  },
  saved: (e) => `saved ${e.path}`,
  bad_video: (e) => `${e.path}  ${e.reason} (skipped, ${e.num_bad} of ${e.num_videos} so far)`,
  left_out: (e) =>
    `step ${e.step}: no clip of the batch can be read, so it is left out (${plural(e.num_left_out, 'step')} so far)`,
  dropped: (e) => `trial ${e.trial} dropped: ${e.why}`,
  rung: (e) => `rung at step ${e.step}: ${e.num_left} of ${plural(e.num_points, 'point')} go on`,
  restarted: (e) => `starting again at step ${e.step}: ${e.why}`,
  interrupted: (e) => `interrupted at step ${e.step}; the same command goes on from there`,
  finished: (e) => (e.sweep === undefined ? `finished at step ${e.step}` : describeSweepEnd(e)),
  checked: (e) =>
    `${e.list}: ${plural(e.num_lines, 'video')}, ${plural(e.errors, 'error')}, ${plural(e.warnings, 'warning')}`,
  predicted: (e) => {
    const classes = e.classes as { name: string; probability: number }[];
    return [`${e.path}`, ...classes.map((c) => `  ${percent(c.probability).padStart(9)}  ${c.name}`)].join('\n');
  },
  clips_prepared: (e) => {
    const bad = e.num_bad ? `; ${e.num_bad} could not be read and are left out, see bad-videos.tsv` : '';
    const clips = num(e.num_clips) - num(e.num_bad);
    return `prepared ${plural(clips, 'clip')}, ${formatBytes(num(e.size_bytes))}${bad}\nTrain with \`--config ${e.config}\`.`;
  },
  planned: (e) =>
    `${e.sweep}: ${plural(e.num_trials, 'trial')} in ${plural(e.num_cohorts, 'cohort')}, ${num(e.ratio).toFixed(1)} times cheaper than each alone (forecast)`,
  attempt: () => undefined,
  cohort: () => undefined,
  launched: (e) => `${e.cohort} started${num(e.attempt) > 1 ? ` (attempt ${e.attempt})` : ''}`,
  ended: (e) => {
    const why = e.why === null ? '' : `: ${e.why}`;
    const then = e.outcome === 'retry' && e.class !== 'out_of_memory' ? 'lost, to be tried again' : e.outcome;
    return `${e.cohort} ${e.outcome === 'retry' ? then : e.outcome} after ${formatDuration(num(e.seconds))}${why}`;
  },
  split: (e) => `${e.cohort} goes on as ${(e.into as string[]).join(', ')}: ${e.why}`,
  result: (e) => `${e.cohort} ${e.trial} ${e.state}: top-1 ${percent(num(e.top1))}${e.why ? ` (${e.why})` : ''}`,
  final: (e) =>
    `${e.trial} on the validation list: top-1 ${percent(num(e.top1))}, top-5 ${percent(num(e.top5))} on ${plural(e.num_videos, 'video')}`,
  reported: (e) =>
    `${plural(e.num_points, 'point')}: ${e.path} (${formatBytes(num(e.size_bytes))}), ${e.csv}, ${e.json}`,
  failed: () => undefined, // printed once, by cli.ts, with what the user can do
};

/** One line for the trials of a cohort; the journal has each. */
const SUMMARIZE: Record<string, (events: TimedEvent[]) => string> = {
  step: (events) => {
    const [e] = events;
    const loss = spread(events, 'loss', Math.min, (value) => value.toFixed(4));
    const top1 = spread(events, 'top1', Math.max, percent);
    const rate = `${num(e?.clips_per_second).toFixed(1)} clips/s  waiting for data ${percent(num(e?.data_seconds) / num(e?.step_seconds))}`;
    return `step ${e?.step}/${e?.steps}  ${plural(events.length, 'trial')}  loss ${loss}  top-1 ${top1}  ${rate}  ETA ${formatDuration(num(e?.eta_seconds))}`;
  },
  evaluated: (events) => {
    const [e] = events;
    const bad = e?.num_bad ? `; ${plural(e.num_bad, 'video')} could not be read` : '';
    const top1 = spread(events, 'top1', Math.max, percent);
    return `evaluated ${plural(events.length, 'trial')} at step ${e?.step}: top-1 ${top1} on ${plural(e?.num_videos, 'video')}, ${plural(e?.views, 'view')}${bad}`;
  },
  result: (events) => {
    const count = (state: string) => events.filter((event) => event.state === state).length;
    const counts = ['finished', 'pruned', 'diverged', 'failed'].map((state) => [count(state), state] as const);
    const told = counts.filter(([number]) => number > 0).map((pair) => pair.join(' '));
    const finished = events.filter((event) => event.state === 'finished' && event.top1 !== null);
    const best = finished.length === 0 ? '' : `; top-1 ${spread(finished, 'top1', Math.max, percent)}`;
    return `${events[0]?.cohort}: ${told.join(', ')}${best}`;
  },
  dropped: (events) => `dropped ${events.map(({ trial }) => trial).join(', ')}`,
};

function describeSweepEnd(e: TimedEvent): string {
  const best = e.best as { point: string; mean: number; trial: string } | undefined;
  const final = e.final as { top1: number; num_videos: number } | null;
  const params = Object.entries((e.params ?? {}) as object).map(([key, value]) => `${key} ${value}`);
  const where = e.selection === 'validation' ? 'the validation list, which it was chosen on' : 'the selection list';
  const lines = [
    `${e.sweep} finished: ${e.run_dir}, ${formatDuration(num(e.seconds))} of training and evaluation`,
    best && `best: ${best.point} (${params.join(', ')}), ${e.metric} ${percent(best.mean)} on ${where}`,
    final &&
      `its trial ${best?.trial}: top-1 ${percent(final.top1)} (95 %: ${interval(final.top1, final.num_videos)}) on ${plural(final.num_videos, 'video')} of the validation list`,
    num(e.num_failed) > 0 && `${plural(e.num_failed, 'trial')} failed: see \`coldframe sweep report ${e.run_dir}\``,
  ];
  return lines.filter(Boolean).join('\n');
}

function spread(
  events: TimedEvent[],
  field: string,
  choose: (...values: number[]) => number,
  show: (value: number) => string,
): string {
  const known = events.filter((event) => typeof event[field] === 'number');
  const values = known.map((event) => num(event[field]));
  const best = choose(...values);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return `best ${show(best)} (${known[values.indexOf(best)]?.trial}), mean ${show(mean)}`;
}

function describeEvent(event: TimedEvent): string | undefined {
  const describe = DESCRIBE[event.kind];
  return describe === undefined ? JSON.stringify(event) : describe(event);
}
