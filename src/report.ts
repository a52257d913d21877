/** The only file that prints: events as lines for people or as JSON lines, notes and progress on stderr. */

import { Interrupted, PythonBug, RuntimeFailure, UserError } from './errors.ts';
import { type RunEvent, stampEvent, type TimedEvent } from './events.ts';

interface Bar {
  start(total: number, value: number, payload: object): void;
  update(value: number, payload: object): void;
  stop(): void;
}

export interface ReportOptions {
  json?: boolean;
  /** The run folder's journal, when there is one. */
  journal?: (event: TimedEvent) => void;
}

const percent = (value: number): string => `${(100 * value).toFixed(2)} %`;

export class Report {
  readonly json: boolean;
  journal: ((event: TimedEvent) => void) | undefined;
  private bar: Bar | undefined;
  private newBar: ((format: string) => Bar) | undefined;

  constructor(options: ReportOptions = {}) {
    this.json = options.json ?? false;
    this.journal = options.journal;
  }

  event(event: RunEvent): void {
    const timed = stampEvent(event);
    this.journal?.(timed);
    const line = this.json ? JSON.stringify(timed) : describeEvent(timed);
    if (line !== undefined) this.print(line);
  }

  /** What the user asked for, on stdout. */
  print(text: string): void {
    this.bar?.stop();
    this.bar = undefined;
    process.stdout.write(`${text}\n`);
  }

  /** What the user should know besides, on stderr. */
  note(text: string): void {
    this.bar?.stop();
    this.bar = undefined;
    process.stderr.write(`${text}\n`);
  }

  /** Loads the progress bar; without a terminal there is none. */
  async enableProgress(): Promise<void> {
    if (this.json || !process.stderr.isTTY) return;
    const { default: progress } = await import('cli-progress');
    this.newBar = (format) =>
      new progress.SingleBar({ format, stream: process.stderr, clearOnComplete: true, hideCursor: null });
  }

  progress(what: string, value: number, total: number, detail: string): void {
    if (this.newBar === undefined) return;
    if (this.bar === undefined) {
      this.bar = this.newBar(`{what} [{bar}] {value}/{total}  {detail}`);
      this.bar.start(total, value, { what, detail });
    }
    this.bar.update(value, { what, detail });
  }

  endProgress(): void {
    this.bar?.stop();
    this.bar = undefined;
  }
}

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

/** Prints how a command failed: on stderr for people, and as a `failed` event on stdout under `--json`. */
export function reportError(error: unknown, json: boolean): void {
  const known = error instanceof Error ? error : new Error(String(error));
  if (json && !(known instanceof Interrupted)) {
    const event = stampEvent({ kind: 'failed', where: known.name, message: known.message });
    process.stdout.write(`${JSON.stringify(event)}\n`);
  }
  process.stderr.write(`${describeError(known)}\n`);
}

function describeError(error: Error): string {
  if (error instanceof UserError || error instanceof Interrupted) return error.message;
  if (error instanceof RuntimeFailure) {
    const lines = error.lines.length > 0 ? ['The last lines it wrote:', ...error.lines.map((line) => `  ${line}`)] : [];
    return [error.message, ...lines].join('\n');
  }
  const trace = error instanceof PythonBug ? `${error.message}\n${error.traceback}` : error.stack;
  return `${trace}\nThis is a bug in coldframe. Please report it with the lines above and what \`coldframe doctor\` prints.`;
}

type Describe = (event: TimedEvent) => string | undefined;
const num = (value: unknown): number => (typeof value === 'number' ? value : Number.NaN);

const DESCRIBE: Record<string, Describe> = {
  started: (e) =>
    num(e.step) === 0 ? `Run folder: ${e.run_dir}` : `Run folder: ${e.run_dir}, going on at step ${e.step}`,
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
    `evaluated at step ${e.step}: top-1 ${percent(num(e.top1))}, top-5 ${percent(num(e.top5))} on ${e.num_videos} videos, ${e.views} views` +
    (e.num_bad ? `; ${e.num_bad} videos could not be read` : '') +
    (e.trial === 'main' ? '' : ` (${e.trial})`),
  averaged: (e) => {
    const members = e.members as { path: string; top1: number; top5: number }[];
    const lines = [...members, { path: 'mean of all', top1: num(e.top1), top5: num(e.top5) }];
    return lines.map((m) => `top-1 ${percent(m.top1)}, top-5 ${percent(m.top5)}  ${m.path}`).join('\n');
  },
  saved: (e) => `saved ${e.path}`,
  bad_video: (e) => `${e.path}  ${e.reason} (skipped, ${e.num_bad} of ${e.num_videos} so far)`,
  dropped: (e) => `trial ${e.trial} dropped: ${e.why}`,
  restarted: (e) => `starting again at step ${e.step}: ${e.why}`,
  interrupted: (e) => `interrupted at step ${e.step}; the same command goes on from there`,
  finished: (e) => `finished at step ${e.step}`,
  checked: (e) => `${e.list}: ${e.num_lines} videos, ${e.errors} errors, ${e.warnings} warnings`,
  predicted: (e) => {
    const classes = e.classes as { name: string; probability: number }[];
    return [`${e.path}`, ...classes.map((c) => `  ${percent(c.probability).padStart(9)}  ${c.name}`)].join('\n');
  },
  failed: () => undefined, // printed once, by cli.ts, with what the user can do
};

function describeEvent(event: TimedEvent): string | undefined {
  const describe = DESCRIBE[event.kind];
  return describe === undefined ? JSON.stringify(event) : describe(event);
}
