/** The two commands of a sweep as tasks: the training of a cohort, and the evaluation of the best trial. */

import { createReadStream, existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { writeWhole } from '../base/files.ts';
import { type Accuracy, pickAccuracy } from '../base/intervals.ts';
import type { Ending } from '../executors/attempts.ts';
import { type Ended, explainEnd, type Smaller, type Task, type Verdict } from '../executors/scheduler.ts';
import type { CohortFile, Trial } from '../run/cohort-types.ts';
import { readSavedStep } from '../run/liveness.ts';
import { readStatus, type StoredStatus } from '../run/status.ts';
import { splitCohort } from './cohorts.ts';
import type { CohortLine, FinalResult, OwnEntry, TrialResult } from './journal.ts';

const LOG = 'cohort.log';

const accuracy = { top1: z.number().nullable(), top5: z.number().nullable(), map: z.number().optional() };
const resultSchema = z.object({
  step: z.number(),
  list: z.object({ file: z.string() }).nullable(),
  results: z.record(z.string(), z.object({ ...accuracy, num_videos: z.number() })),
});

function readChecked<T>(file: string, schema: z.ZodType<T>): T | undefined {
  return existsSync(file) ? schema.parse(JSON.parse(readFileSync(file, 'utf8'))) : undefined;
}

/** Returns what an attempt says of itself; undefined when it has not said anything, or another attempt has. */
export function readCohortStatus(dir: string, attempt: number): StoredStatus | undefined {
  const status = readStatus(join(dir, 'status.json'));
  return status?.attempt === attempt ? status : undefined;
}

/** What a sweep gives all its tasks. */
export interface TaskContext {
  dir: string;
  /** The program and its first arguments. */
  program: string[];
  cohort: Pick<CohortFile, 'format' | 'metric' | 'bracket'>;
  trialsOf(names: string[]): Trial[];
  /** Names of cohorts that are free. */
  newNames(count: number): string[];
  /** Machines and devices of a cohort; the evaluation of the best trial has one. */
  launch: { nodes: number; devices: number };
}

export class CohortTask implements Task<OwnEntry> {
  readonly name: string;
  readonly dir: string;
  readonly #line: CohortLine;
  readonly #context: TaskContext;

  constructor(line: CohortLine, context: TaskContext) {
    this.name = line.cohort;
    this.dir = join(context.dir, 'cohorts', line.cohort);
    this.#line = line;
    this.#context = context;
  }

  get nodes(): number {
    return this.#context.launch.nodes;
  }

  get devices(): number {
    return this.#context.launch.devices;
  }

  get signs(): string[] {
    return ['attempt.json', 'status.json', 'events.jsonl', LOG].map((name) => join(this.dir, name));
  }

  get logFile(): string {
    return join(this.dir, LOG);
  }

  command(attempt: number): string[] {
    const file = join(this.dir, 'cohort.json');
    const more = ['--run-dir', this.dir, '--attempt', String(attempt)];
    return [...this.#context.program, 'train', '--cohort', file, ...more];
  }

  prepare(): void {
    // Written again for each attempt: weights may lie elsewhere by now, and an older version's may lack keys.
    const path = join(this.dir, 'cohort.json');
    const file: CohortFile = { ...this.#context.cohort, name: this.name, trials: this.#trials() };
    writeJson(path, file);
  }

  #trials(): Trial[] {
    const trials = this.#context.trialsOf(this.#line.trials);
    const { micro_batches: parts } = this.#line;
    if (parts === undefined) return trials;
    return trials.map((trial) => {
      const train = { ...trial.settings.train, micro_batches: parts };
      return { ...trial, settings: { ...trial.settings, train } };
    });
  }

  async judge(ended: Ended, attempt: number): Promise<Verdict<OwnEntry>> {
    const status = readCohortStatus(this.dir, attempt);
    const endedAt = ended.code === null && status?.updated ? { endedAt: Date.parse(status.updated) } : {};
    const states = Object.values(status?.trials ?? {}).map(({ state }) => state);
    const hasDiverged = states.length > 0 && states.every((state) => state === 'diverged');
    if (status !== undefined && (status.state === 'finished' || hasDiverged)) {
      const entries = await this.#gatherResults(status);
      return { outcome: 'finished', class: null, why: null, entries, ...endedAt };
    }
    const failure = classify(ended, status);
    const why = (ended.class === undefined && status?.message) || explainEnd(ended, this);
    const outcome = failure === 'user' || failure === 'bug' ? 'failed' : 'retry';
    const step = readSavedStep(this.dir) ?? 0;
    return { outcome, class: failure, why, entries: [], step, ...endedAt };
  }

  async #gatherResults(status: StoredStatus): Promise<OwnEntry[]> {
    const evaluations = readEvaluations(join(this.dir, 'evaluations'));
    const reasons = await readDrops(join(this.dir, 'events.jsonl'));
    return this.#context.trialsOf(this.#line.trials).map(({ name, point }) => {
      const { state, step, ...found } = status.trials[name] ?? { ...NOTHING, state: 'finished', step: null };
      const rungs = evaluations.flatMap((one) => {
        const result = one.results[name];
        return result === undefined ? [] : [{ step: one.step, ...pickAccuracy(result) }];
      });
      const why = state === 'finished' ? null : (reasons.get(name) ?? null);
      const left = state === 'pruned' || state === 'diverged' ? state : 'finished';
      return this.#result({ trial: name, point, state: left, step }, found, { rungs, why });
    });
  }

  #result(
    about: Pick<TrialResult, 'trial' | 'point' | 'state' | 'step'>,
    found: Accuracy,
    more: Pick<TrialResult, 'rungs' | 'why'>,
  ): OwnEntry {
    return { kind: 'result', cohort: this.name, ...about, ...pickAccuracy(found), ...more };
  }

  abandon(why: string): OwnEntry[] {
    return this.#context.trialsOf(this.#line.trials).map(({ name, point }) => {
      const about = { trial: name, point, state: 'failed' as const, step: null };
      return this.#result(about, NOTHING, { rungs: [], why });
    });
  }

  /** Halves the cohort, which changes no number; a single trial computes its batch in more parts, which may. */
  shrink(): Smaller<OwnEntry> | undefined {
    const trials = this.#trials();
    const { forecast_bytes: _, cost: __, ...line } = this.#line;
    const unknown = { forecast_bytes: null, cost: null };
    const halves = splitCohort(trials);
    if (halves !== null) {
      const names = this.#context.newNames(halves.length);
      const lines = halves.map((half, index) => {
        const members = half.map(({ name }) => name);
        return { ...line, ...unknown, cohort: names[index] ?? '', trials: members };
      });
      return this.#become(lines, 'out of memory: split in two');
    }
    const { nodes, devices } = this;
    const train = trials[0]?.settings.train;
    const parts =
      train === undefined ? undefined : findMoreParts(train.micro_batches, train.batch_size / (nodes * devices));
    if (train === undefined || parts === undefined) return undefined;
    const [name = ''] = this.#context.newNames(1);
    const why = `out of memory: train.micro_batches ${train.micro_batches} -> ${parts}, which may change the last digits`;
    return this.#become([{ ...line, ...unknown, cohort: name, micro_batches: parts }], why);
  }

  #become(lines: CohortLine[], why: string): Smaller<OwnEntry> {
    const into = lines.map(({ cohort }) => cohort);
    return {
      tasks: lines.map((line) => new CohortTask(line, this.#context)),
      entries: [
        ...lines.map((line): OwnEntry => ({ kind: 'cohort', ...line })),
        { kind: 'split', cohort: this.name, into, why },
      ],
    };
  }
}

const NOTHING: Accuracy = { top1: null, top5: null };

/** Returns the next divisor of a process's share of the batch that at least doubles the parts it is computed in. */
export function findMoreParts(parts: number, share: number): number | undefined {
  for (let more = 2 * parts; more <= share; more++) if (share % more === 0) return more;
  return undefined;
}

/** What the executor knows comes first: to a command whose Python was killed for its memory, that was lost. */
function classify({ code, class: known }: Ended, status: StoredStatus | undefined): NonNullable<Ending['class']> {
  if (known !== undefined) return known;
  if (status?.state === 'failed' && status.class !== null) return status.class;
  if (code === 2) return 'user';
  return code === 1 || code === 0 ? 'bug' : 'lost'; // 0 without a result is none of ours
}

function readEvaluations(folder: string): z.output<typeof resultSchema>[] {
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const found = names.flatMap((name) => readChecked(join(folder, name, 'result.json'), resultSchema) ?? []);
  return found.sort((a, b) => a.step - b.step);
}

/** Why trials were dropped, by name; of lines that came twice the last counts. */
async function readDrops(file: string): Promise<Map<string, string>> {
  const reasons = new Map<string, string>();
  if (!existsSync(file)) return reasons;
  for await (const line of createInterface({ input: createReadStream(file) })) {
    if (!line.includes('"kind":"dropped"')) continue;
    const { trial, why } = JSON.parse(line) as { trial: string; why: string };
    reasons.set(trial, why);
  }
  return reasons;
}

/** The evaluation of one trial on the validation list. */
export class FinalTask implements Task<OwnEntry> {
  readonly name = 'final';
  readonly signs = [];
  readonly dir: string;
  readonly #trial: Trial;
  readonly #checkpoint: string;
  readonly #context: TaskContext;

  constructor(trial: Trial, cohort: string, context: TaskContext) {
    this.dir = join(context.dir, 'final');
    this.#trial = trial;
    this.#checkpoint = join(context.dir, 'cohorts', cohort, 'checkpoints', 'latest');
    this.#context = context;
  }

  get logFile(): string {
    return join(this.dir, LOG);
  }

  command(): string[] {
    const config = join(this.#context.dir, 'best.yaml');
    const which = ['--checkpoint', this.#checkpoint, '--trial', this.#trial.name];
    return [...this.#context.program, 'evaluate', '--config', config, ...which, '--output', this.dir];
  }

  prepare(): void {}

  async judge(ended: Ended): Promise<Verdict<OwnEntry>> {
    const found = readChecked(join(this.dir, 'result.json'), resultSchema);
    const result = found?.results[this.#trial.name];
    if (found !== undefined && result !== undefined) {
      const { name: trial, point, seed } = this.#trial;
      const about = { num_videos: result.num_videos, list: found.list?.file ?? null };
      const final: FinalResult = { trial, point, seed, ...pickAccuracy(result), ...about };
      return { outcome: 'finished', class: null, why: null, entries: [{ kind: 'final', ...final }] };
    }
    const failure = classify(ended, undefined);
    const outcome = failure === 'lost' ? 'retry' : 'failed';
    return { outcome, class: failure, why: explainEnd(ended, this), entries: [] };
  }

  abandon(): undefined {}

  shrink(): undefined {}
}

export function writeJson(file: string, value: unknown): void {
  writeWhole(file, `${JSON.stringify(value)}\n`);
}
