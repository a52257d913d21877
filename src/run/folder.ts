/** The run folder: what a run leaves behind, and how it is written so that a reader always sees whole files. */

import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  statSync,
  truncateSync,
  utimesSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { Fenced, UserError } from '../base/errors.ts';
import type { Kind, StoredEvent, TimedEvent } from '../base/events/event.ts';
import { appendWhole, makeFolder, writeWhole } from '../base/files.ts';
import { readFormat } from '../config/stored-format.ts';
import type { Which } from '../data/checks.ts';
import { describeWriter, judgeRun, type Writer } from './liveness.ts';

export interface Status {
  state: 'running' | 'finished' | 'interrupted' | 'failed';
  step: number;
  steps: number;
  [field: string]: unknown;
}

export class RunFolder {
  readonly dir: string;
  /** The number this process writes under; a folder that a later attempt has taken over is closed to it. */
  readonly attempt: number | undefined;
  /** How often a cluster has started this attempt again by itself: the later start fences off the earlier one. */
  readonly #restart = Number(process.env.COLDFRAME_RESTART ?? 0);

  constructor(dir: string, attempt?: number) {
    this.dir = resolve(dir);
    this.attempt = attempt;
  }

  isFenced(): boolean {
    if (this.attempt === undefined) return false;
    const current = this.readJson('attempt.json') as { attempt: number; restart?: number } | undefined;
    if (current === undefined || current.attempt < this.attempt) return false;
    return current.attempt > this.attempt || (current.restart ?? 0) > this.#restart;
  }

  /** Throws Fenced when a later attempt has the folder. Asked before every write. */
  refuseFenced(): void {
    if (this.isFenced()) throw new Fenced(`${this.dir}  a later attempt than ${this.attempt} has taken over.`);
  }

  path(...parts: string[]): string {
    return join(this.dir, ...parts);
  }

  create(): void {
    this.refuseFenced();
    makeFolder(this.dir);
    if (this.attempt === undefined || this.#restart === 0) return;
    const current = this.readJson('attempt.json') as object | undefined;
    this.writeJson('attempt.json', { ...current, attempt: this.attempt, restart: this.#restart });
  }

  /** A sign of life for a scheduler on another machine. */
  beat(): void {
    if (this.attempt === undefined || this.isFenced() || !existsSync(this.path('attempt.json'))) return;
    const now = new Date();
    utimesSync(this.path('attempt.json'), now, now);
  }

  /** Makes the journals ready for appending: a line torn by a kill is cut off. */
  dropTornLines(): void {
    dropTornLine(this.path('events.jsonl'));
    dropTornLine(this.path('bad-videos.tsv'));
  }

  append(event: TimedEvent): void {
    this.refuseFenced();
    appendWhole(this.path('events.jsonl'), `${JSON.stringify(event)}\n`);
  }

  write(name: string, text: string): void {
    this.refuseFenced();
    writeWhole(this.path(name), text);
  }

  writeJson(name: string, value: unknown): void {
    this.write(name, `${JSON.stringify(value, null, 2)}\n`);
  }

  readJson(name: string): unknown {
    const file = this.path(name);
    if (!existsSync(file)) return undefined;
    try {
      return JSON.parse(readFileSync(file, 'utf8'));
    } catch (error) {
      throw new UserError(`${file}  is not valid JSON: ${(error as Error).message}. Start afresh with --resume never.`);
    }
  }

  writeStatus(status: Status): void {
    this.writeJson('status.json', { ...status, ...describeWriter() });
  }

  /** Adds a bad video of a list, once; returns whether the run did not know it, and all of that list with their reasons. */
  addBadVideo(list: Which, path: string, reason: string): { isNew: boolean; all: ReadonlyMap<string, string> } {
    const known = this.badVideos();
    const isNew = !known.train.has(path) && !known.val.has(path);
    if (isNew) {
      this.refuseFenced();
      appendWhole(this.path('bad-videos.tsv'), `${path}\t${reason.replace(/\s+/g, ' ')}\t${list}\n`);
    }
    known[list].set(path, reason);
    return { isNew, all: known[list] };
  }

  private bad: Record<Which, Map<string, string>> | undefined;

  /** Those that the run has met so far, with their reasons, by list. */
  badVideos(): Record<Which, Map<string, string>> {
    if (this.bad === undefined) {
      this.bad = { train: new Map(), val: new Map() };
      const file = this.path('bad-videos.tsv');
      const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
      for (const line of lines) {
        const [path = '', reason = '', list] = line.split('\t');
        this.bad[list === 'val' ? 'val' : 'train'].set(path, reason); // older runs do not say which
      }
    }
    return this.bad;
  }

  /** The events of a kind up to a step, the oldest first; a torn last line is none. */
  readEvents(kind: Kind, step: number): StoredEvent[] {
    const file = this.path('events.jsonl');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : [];
    const found = lines
      .map((line, index) => [line, index + 1] as const)
      .filter(([line]) => line.includes(`"kind":"${kind}"`))
      .map(([line, number]) => parseEvent(line, `${file}:${number}`));
    return found.filter((event) => event.kind === kind && (event.step ?? 0) <= step);
  }

  /** The steps that have a complete evaluation, ascending. */
  listEvaluations(): number[] {
    const folder = this.path('evaluations');
    const names = existsSync(folder) ? readdirSync(folder) : [];
    const steps = names.map((name) => Number(/^step-(\d+)$/.exec(name)?.[1] ?? Number.NaN));
    const isComplete = (step: number): boolean => existsSync(join(folder, `step-${step}`, 'result.json'));
    return steps.filter((step) => !Number.isNaN(step) && isComplete(step)).sort((a, b) => a - b);
  }

  hasCheckpoint(): boolean {
    const folder = this.path('checkpoints');
    const names = existsSync(folder) ? readdirSync(folder) : [];
    return names.some((name) => name === 'latest' || /^step-\d+$/.test(name)); // as Python finds one without `latest`
  }

  /** Puts an existing run aside under a name that says when, so that `--resume never` loses nothing. */
  setAside(): string | undefined {
    if (!existsSync(this.path('config.json'))) return undefined;
    const status = (this.readJson('status.json') ?? {}) as Writer & { state?: string };
    // Python touches its log while it works; an evaluation may last for hours without another status.
    const touched = statSync(this.path('runtime.log'), { throwIfNoEntry: false })?.mtime.toISOString() ?? '';
    const updated = [status.updated ?? '', touched].sort().at(-1) ?? '';
    if (judgeRun({ ...status, updated }) === 'running') {
      const who = `process ${status.pid} is training there, on ${status.host}`;
      throw new UserError(`${this.dir}  ${who}. Stop it first, or choose another --run-dir.`);
    }
    const stamp = new Date().toISOString().slice(0, 19).replace(/[-:]/g, '').replace('T', '-');
    let aside = `${this.dir}.before-${stamp}`;
    for (let n = 2; existsSync(aside); n++) aside = `${this.dir}.before-${stamp}-${n}`;
    renameSync(this.dir, aside);
    return aside;
  }
}

function parseEvent(line: string, place: string): StoredEvent {
  try {
    return JSON.parse(line) as StoredEvent;
  } catch (error) {
    throw new UserError(`${place}  is not valid JSON: ${(error as Error).message}. Remove this line.`);
  }
}

function dropTornLine(file: string): void {
  if (!existsSync(file)) return;
  const bytes = readFileSync(file);
  const end = bytes.lastIndexOf(0x0a) + 1;
  if (end < bytes.length) truncateSync(file, end);
}

/** The header of a checkpoint folder, as Python wrote it. */
export interface CheckpointHeader {
  format: number;
  step: number;
  classes: string[] | null;
  config: Record<string, unknown>;
  trials: Record<string, unknown>;
}

/** Returns the path that Python takes as a checkpoint: a folder of ours, or a file of the original. */
export function findCheckpoint(path: string): string {
  return isUpstreamFile(path) ? resolve(path) : readCheckpoint(path).folder;
}

/** The original's checkpoints are single files, and hold neither configuration nor class names. */
export function isUpstreamFile(path: string): boolean {
  return /\.pth?$/.test(path) && existsSync(path) && statSync(path).isFile();
}

/** Reads `checkpoint.json` of a checkpoint folder; a run folder stands for its latest checkpoint. */
export function readCheckpoint(path: string): { folder: string; header: CheckpointHeader } {
  const given = resolve(path);
  if (!existsSync(given))
    throw new UserError(`${path}  does not exist. Give a checkpoint such as RUN/checkpoints/latest.`);
  if (isUpstreamFile(path)) {
    const convert = `coldframe checkpoint convert ${path} --to coldframe --config FILE --output DIR`;
    throw new UserError(`${path}  is a checkpoint of the original and holds no configuration. Convert it: ${convert}`);
  }
  const candidates = [given, join(given, 'checkpoints', 'latest'), join(given, 'latest')];
  const folder = candidates.map(followName).find((candidate) => existsSync(join(candidate, 'checkpoint.json')));
  if (folder === undefined) {
    const what = statSync(given).isDirectory() ? 'holds no checkpoint.json' : `is a file (${basename(given)})`;
    throw new UserError(`${path}  ${what}. A checkpoint is a folder such as RUN/checkpoints/latest.`);
  }
  const file = join(folder, 'checkpoint.json');
  let header: CheckpointHeader;
  try {
    header = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UserError(`${file}  cannot be read: ${(error as Error).message}.`);
  }
  return { folder, header: { ...header, format: readFormat(header, file) } };
}

/** Returns the checkpoint that `latest` or `best` names: by a link, on a disk without links by a small file. A result
 * says so of which step it is, also when another one has the name. */
export function followName(path: string): string {
  if (!/^(latest|best)$/.test(basename(path)) || !existsSync(path)) return path;
  const stats = lstatSync(path);
  if (!stats.isFile() && !stats.isSymbolicLink()) return path;
  const name = stats.isFile() ? readFileSync(path, 'utf8').trim() : readlinkSync(path);
  return /^step-\d+$/.test(name) ? join(dirname(path), name) : path;
}

/** Returns which trial of a checkpoint is meant: the named one, or its only one. */
export function chooseTrial(path: string, header: CheckpointHeader, name: string | undefined): string {
  const names = Object.keys(header.trials);
  const [only] = names;
  if (only === undefined) throw new UserError(`${path}  holds no trial. Take another checkpoint.`);
  if (name === undefined && names.length === 1) return only;
  if (name !== undefined && names.includes(name)) return name;
  const what = name === undefined ? '' : ` and no ${name}`;
  throw new UserError(`${path}  holds the trials ${names.join(', ')}${what}. Name one of them with --trial.`);
}
