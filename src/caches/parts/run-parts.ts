/** A job in parts, from its first part to the last: the scheduler of sweeps over their executors. */

import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeFailure, showPath, UserError } from '../../base/errors.ts';
import { makeFolder } from '../../base/files.ts';
import { PROGRAM } from '../../base/paths.ts';
import type { Report } from '../../base/printer.ts';
import { tryLock } from '../../base/process/lock.ts';
import { StopCount } from '../../base/process/stop.ts';
import { plural } from '../../base/words.ts';
import { type Attempt, type AttemptEntry, type Ending, takeAttempt } from '../../executors/attempts.ts';
import type { SweepExecutor } from '../../executors/executor.ts';
import { JournalFile } from '../../executors/journal-file.ts';
import { openExecutor, openHeartbeat } from '../../executors/open.ts';
import { type Ended, explainEnd, Scheduler, type Task, type Verdict } from '../../executors/scheduler.ts';
import { nameParts, type PartStatus, readJob, readStatus, refuseOtherCount, type Work, writeJob } from './job.ts';

const MAX_ROUNDS = 3; // of parts that are built again since their bytes are not those that were written

/** In how many parts, and where. */
export interface InParts {
  parts: number;
  executor: SweepExecutor;
  /** What stands for `scripts/coldframe`. */
  program?: string[];
}

export interface PartsRequest<W extends Work> extends InParts {
  dir: string;
  /** Returns what is to be done; called once nobody else does it. */
  plan: () => Promise<W>;
  /** Words of the command, such as `features build`: each part runs it with `--part`. */
  verb: string[];
  launch: { device: string; stall_seconds: number };
  /** Of what is counted. */
  unit: string;
  /** Whether what a part found may be otherwise when the command runs again; by default it is not. */
  isOpen?: (result: object) => boolean;
  /** Makes one of all parts, of these folders; returns how much of it turns out to be missing. */
  merge: (work: W, folders: string[], results: object[]) => Promise<number>;
}

type Entry = { kind: 'job'; id: string; executor: string } | AttemptEntry;

/** Runs the parts and merges them. Throws Interrupted when asked to stop, after they have saved: the same command goes on. */
export async function runParts<W extends Work>(request: PartsRequest<W>, report: Report): Promise<void> {
  const { dir, parts } = request;
  refuseOtherCount(dir, parts);
  makeFolder(dir);
  const lock = tryLock(join(dir, 'runner'));
  if (typeof lock !== 'function')
    throw new UserError(
      `${showPath(dir)}  process ${lock.pid} on ${lock.host} does this work. Stop it first. If that machine is gone, remove ${join(dir, 'runner.lock')}.`,
    );
  const stop = new StopCount();
  try {
    const work = await request.plan();
    writeJob(dir, parts, work);
    await new Parts({ ...request, work }, stop, report).run();
    rmSync(dir, { recursive: true });
  } finally {
    report.endProgress();
    stop.release();
    if (existsSync(dir)) lock();
    if (readJob(dir) === undefined) rmSync(dir, { recursive: true, force: true }); // it was refused
  }
}

type Begun<W extends Work> = PartsRequest<W> & { work: W };

class Parts<W extends Work> {
  readonly #request: Begun<W>;
  readonly #report: Report;
  readonly #stop: StopCount;
  readonly #tasks: PartTask[];
  readonly #attempts = new Map<string, Attempt[]>();
  readonly #journal: JournalFile<Entry>;
  #job: { id: string; executor: string } | undefined;

  constructor(request: Begun<W>, stop: StopCount, report: Report) {
    this.#request = request;
    this.#report = report;
    this.#stop = stop;
    this.#journal = new JournalFile(join(request.dir, 'journal.jsonl'), (entry) => {
      if (entry.kind === 'job') this.#job = entry;
      else takeAttempt(this.#attempts, entry);
    });
    this.#tasks = nameParts(request.parts).map((name) => new PartTask(name, request));
  }

  async run(): Promise<void> {
    const { dir, executor: settings, launch } = this.#request;
    const id = this.#begin();
    const about = { dir, device: launch.device, stop: this.#stop, note: (text: string) => this.#report.note(text) };
    const executor = openExecutor(settings, about);
    const scheduler = new Scheduler({
      ...{ id, executor, stop: this.#stop, attempts: this.#attempts, tell: () => this.#tell() },
      ...{ maxAttempts: settings.max_attempts, failure: settings.failure },
      record: (entries) => this.#record(entries),
      heartbeat: openHeartbeat(settings, launch),
    });
    try {
      let todo = this.#tasks.filter((task) => !this.#isDone(task));
      for (let round = 0; round < MAX_ROUNDS; round++) {
        await scheduler.run(todo);
        if ((await this.#merge()) === 0) return;
        todo = this.#tasks;
      }
    } finally {
      await executor.close();
      this.#journal.close();
    }
    throw new RuntimeFailure(`${dir}  is not whole although all parts have ended. The same command tries again.`);
  }

  #isDone({ name, dir }: PartTask): boolean {
    if (this.#attempts.get(name)?.at(-1)?.ended?.outcome !== 'finished') return false;
    const result = readStatus(dir)?.result;
    return !(result && this.#request.isOpen?.(result));
  }

  /** Returns what begins the keys of all attempts. Throws UserError where jobs may still run elsewhere. */
  #begin(): string {
    const { executor, dir } = this.#request;
    const open = [...this.#attempts.values()].filter((attempts) => attempts.at(-1)?.ended === undefined);
    if (this.#job !== undefined && this.#job.executor !== executor.kind && open.length > 0)
      throw new UserError(
        `--executor  ${plural(open.length, 'part')} of ${showPath(dir)} may still run on ${this.#job.executor}. Go on with it there, stop it with Ctrl-C, and then choose another.`,
      );
    const id = this.#job?.id ?? `${this.#request.work.kind}-${Date.now().toString(36)}-${process.pid}`;
    this.#journal.append([{ kind: 'job', id, executor: executor.kind }]);
    return id;
  }

  async #merge(): Promise<number> {
    const results = this.#tasks.flatMap(({ dir }) => readStatus(dir)?.result ?? []);
    return this.#request.merge(
      this.#request.work,
      this.#tasks.map(({ dir }) => dir),
      results,
    );
  }

  #record(entries: AttemptEntry[]): void {
    this.#journal.append(entries);
    for (const entry of entries) {
      if (entry.kind === 'attempt') continue;
      const { cohort: part, attempt } = entry;
      const [state, why] = entry.kind === 'ended' ? [entry.outcome, entry.why] : ['started' as const, null];
      this.#report.event({ kind: 'part', part, attempt, state, why });
    }
  }

  #tell(): void {
    const all = this.#tasks.flatMap(({ dir }) => readStatus(dir) ?? []);
    const sum = (pick: (status: PartStatus) => number): number => all.reduce((total, one) => total + pick(one), 0);
    const live = all.filter(({ result }) => result === null);
    const rate = live.reduce((total, { clips_per_second: rate }) => total + (rate ?? 0), 0);
    const place = rate === 0 ? undefined : `${rate.toFixed(1)} clips/s`;
    // Shares are alike: those that have not begun count as the others do.
    const total = Math.round((sum(({ num_total }) => num_total) * this.#tasks.length) / Math.max(1, all.length));
    if (total > 0)
      this.#report.progress(
        this.#request.unit,
        sum(({ num_done }) => num_done),
        total,
        place === undefined ? {} : { place },
      );
  }
}

type TaskRequest = Pick<PartsRequest<Work>, 'dir' | 'verb' | 'program'>;

class PartTask implements Task {
  readonly name: string;
  readonly dir: string;
  readonly logFile: string;
  readonly signs: string[];
  readonly #request: TaskRequest;

  constructor(name: string, request: TaskRequest) {
    this.name = name;
    this.dir = join(request.dir, name);
    this.logFile = join(this.dir, 'part.log');
    this.signs = ['attempt.json', 'part.json', 'part.log'].map((file) => join(this.dir, file));
    this.#request = request;
  }

  command(attempt: number): string[] {
    const { program = [PROGRAM], verb } = this.#request;
    return [...program, ...verb, '--part', this.dir, '--attempt', String(attempt)];
  }

  prepare(): void {}

  async judge(ended: Ended, attempt: number): Promise<Verdict> {
    const status = readStatus(this.dir);
    const entries: never[] = [];
    if (status?.attempt === attempt && status.result !== null)
      return { outcome: 'finished', class: null, why: null, entries };
    const failure = classify(ended);
    const outcome = failure === 'user' || failure === 'bug' ? 'failed' : 'retry';
    const step = status?.num_saved ?? 0;
    return { outcome, class: failure, why: explainEnd(ended, this), entries, step };
  }

  abandon(): undefined {}

  shrink(): undefined {}
}

/** What the executor knows comes first. */
function classify({ code, class: known }: Ended): NonNullable<Ending['class']> {
  if (known !== undefined) return known;
  if (code === 2) return 'user';
  return code === 1 || code === 0 ? 'bug' : 'lost';
}
