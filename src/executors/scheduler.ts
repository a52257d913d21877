/** Which job runs when: first in, first out over an executor's slots, again after a loss, smaller after running out of memory. */

import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Interrupted, RuntimeFailure, UserError } from '../base/errors.ts';
import { writeWhole } from '../base/files.ts';
import type { Attempt, AttemptEntry, Ending } from './attempts.ts';
import type { Executor, Job, JobState } from './executor.ts';
import type { Heartbeat } from './heartbeat.ts';

const POLL_SECONDS = 0.25;
const ATTEMPT_LINE = /^--- attempt \d+ ---$/;
const NUM_LOG_LINES = 20;

export type FailureMode = 'no-new' | 'continue' | 'kill';
export type Ended = Extract<JobState, { state: 'ended' }>;

/** What became of an attempt, and what the journal is to keep of it. */
export interface Verdict<Entry = never> extends Omit<Ending, 'seconds'> {
  entries: Entry[];
  /** When it ended, where that was not now: nobody may have watched. */
  endedAt?: number;
}

/** A command that is run until it is done: of a sweep the training of a cohort, or the evaluation of its best trial; a part
 * of a large job. `Entry`: what else than its attempts a journal keeps of it. */
export interface Task<Entry = never> {
  /** c0001 ..., or `final`. */
  name: string;
  dir: string;
  /** Takes what the command prints. */
  readonly logFile: string;
  /** Files that change while its command lives; none where it gives no such sign. */
  readonly signs: string[];
  /** Machines that it takes together, and devices of each; one where it says none. */
  readonly nodes?: number;
  readonly devices?: number;
  command(attempt: number): string[];
  /** Writes what the command reads. */
  prepare(): void;
  judge(ended: Ended, attempt: number): Promise<Verdict<Entry>>;
  /** What the journal keeps of a task that is given up while others go on; undefined where nothing can go on without it. */
  abandon(why: string): Entry[] | undefined;
  /** Returns smaller tasks that do the same, undefined when it cannot be smaller. */
  shrink(): Smaller<Entry> | undefined;
}

export interface Smaller<Entry> {
  tasks: Task<Entry>[];
  /** Their lines in the journal, the `split` last. */
  entries: Entry[];
}

export interface SchedulerOptions<Entry> {
  /** What is known of the attempts at the tasks, by name. */
  attempts: ReadonlyMap<string, Attempt[]>;
  /** Writes entries down, before anything follows from them, and takes them into `attempts`. */
  record: (entries: (Entry | AttemptEntry)[]) => void;
  executor: Executor;
  /** Part of every key. */
  id: string;
  maxAttempts: number;
  failure: FailureMode;
  /** Watches jobs that this machine does not see; null: nobody does. */
  heartbeat: Heartbeat | null;
  /** Counts the requests to stop. */
  stop: { readonly requested: number };
  /** Called about four times a second. */
  tell: () => void;
}

/** Returns how a command ended, and the last that this attempt printed; one that was killed had no say in it. */
export function explainEnd({ why, code }: Ended, { logFile }: { logFile: string }): string {
  const log = code !== null && existsSync(logFile) ? readFileSync(logFile, 'utf8').trimEnd().split('\n') : [];
  const begin = log.findLastIndex((line) => ATTEMPT_LINE.test(line)) + 1;
  const lines = log.slice(begin).slice(-NUM_LOG_LINES).filter(Boolean);
  return [`the command ${why}${lines.length > 0 ? ':' : ''}`, ...lines].join('\n');
}

/** Attempts lost in a row since the task was last given up, or since one moved its saved step on: a time limit is no fault
 * where each attempt gets further. */
function countLost(endings: Omit<Ending, 'seconds'>[]): number {
  let [numLost, furthest] = [0, 0];
  for (const { outcome, step = 0 } of endings) {
    if (outcome === 'failed') numLost = 0;
    if (outcome === 'retry') numLost = step > furthest ? 1 : numLost + 1;
    furthest = Math.max(furthest, step);
  }
  return numLost;
}

export class Scheduler<Entry = never> {
  readonly #options: SchedulerOptions<Entry>;
  readonly #running = new Map<Task<Entry>, Attempt>();
  #waiting: Task<Entry>[] = [];
  /** Why nothing new is started. */
  #halt: Error | undefined;
  #numCancelled = 0;

  constructor(options: SchedulerOptions<Entry>) {
    this.#options = options;
  }

  /** Runs tasks to their ends. Throws Interrupted, or the error that stopped it: UserError or RuntimeFailure. */
  async run(tasks: Task<Entry>[]): Promise<void> {
    this.#waiting = [];
    for (const task of tasks) await this.#resume(task);
    for (;;) {
      await this.#collect();
      await this.#obeyStop();
      await this.#startWaiting();
      this.#options.tell();
      if (this.#running.size === 0 && (this.#isHalted() || this.#waiting.length === 0)) break;
      await sleep(POLL_SECONDS * 1000);
    }
    if (this.#halt !== undefined) throw this.#halt;
    if (this.#options.stop.requested > 0) throw new Interrupted('stopped; the same command goes on');
  }

  /** Takes up a task where an earlier runner left it: its command may be running still. */
  async #resume(task: Task<Entry>): Promise<void> {
    const last = this.#attemptsOf(task).at(-1);
    if (last === undefined || last.ended !== undefined) {
      // Killed between the end and the split.
      const isTooLarge = last?.ended?.class === 'out_of_memory' && last.ended.outcome === 'retry';
      const smaller = isTooLarge ? task.shrink() : undefined;
      this.#record(...(smaller?.entries ?? []));
      this.#waiting.push(...(smaller?.tasks ?? [task]));
      return;
    }
    const handle = last.handle ?? (await this.#options.executor.find(last.key));
    if (handle === undefined) {
      const verdict = await task.judge({ state: 'ended', code: null, why: 'was never started' }, last.attempt);
      if (verdict.outcome !== 'retry' || verdict.class !== 'lost') return this.#settle(task, last, verdict); // long over
      this.#end(task, last, { ...verdict, outcome: 'cancelled', class: null });
      this.#waiting.push(task);
      return;
    }
    if (last.handle === undefined) this.#record({ kind: 'launched', ...this.#about(task, last), handle });
    this.#running.set(task, last);
  }

  async #startWaiting(): Promise<void> {
    while (!this.#isHalted() && this.#running.size < this.#options.executor.slots) {
      const { slots, startMany } = this.#options.executor;
      const tasks = this.#waiting.splice(0, startMany === undefined ? 1 : slots - this.#running.size);
      if (tasks.length === 0) return;
      await this.#start(tasks);
    }
  }

  async #start(tasks: Task<Entry>[]): Promise<void> {
    const starts = tasks.map((task) => this.#announce(task));
    try {
      const handles = await this.#launch(starts.map(({ job }) => job));
      starts.forEach(({ task, attempt }, index) => {
        this.#record({ kind: 'launched', ...this.#about(task, attempt), handle: handles[index] ?? '' });
        this.#running.set(task, attempt);
      });
    } catch (error) {
      const failure = error instanceof UserError ? 'user' : 'lost';
      const outcome = failure === 'user' ? 'failed' : 'retry';
      const verdict: Verdict<Entry> = { outcome, class: failure, why: (error as Error).message, entries: [] };
      for (const { task, attempt } of starts) this.#settle(task, attempt, verdict);
    }
  }

  async #launch(jobs: Job[]): Promise<string[]> {
    const { executor } = this.#options;
    const [first] = jobs;
    if (first !== undefined && jobs.length === 1) return [await executor.start(first)];
    return (await executor.startMany?.(jobs)) ?? [];
  }

  /** Writes a new attempt down, before its start. */
  #announce(task: Task<Entry>): { task: Task<Entry>; attempt: Attempt; job: Job } {
    const number = (this.#attemptsOf(task).at(-1)?.attempt ?? 0) + 1;
    const key = `${this.#options.id}-${task.name}-${number}`;
    task.prepare();
    // What still runs of an earlier attempt sees this file, and writes nothing any more.
    writeWhole(join(task.dir, 'attempt.json'), `${JSON.stringify({ attempt: number, key })}\n`);
    this.#record({ kind: 'attempt', cohort: task.name, attempt: number, key });
    if (existsSync(task.logFile)) appendFileSync(task.logFile, `--- attempt ${number} ---\n`); // all write into one
    const attempt = this.#attemptsOf(task).at(-1);
    if (attempt === undefined) throw new Error('the journal lost an attempt');
    const { nodes = 1, devices = 1, logFile } = task;
    const job = { key, command: task.command(number), cwd: process.cwd(), env: {}, nodes, devices, logFile };
    return { task, attempt, job };
  }

  async #collect(): Promise<void> {
    const handles = [...this.#running.values()].flatMap(({ handle }) => handle ?? []);
    if (handles.length === 0) return;
    const states = await this.#options.executor.watch(handles);
    for (const [task, attempt] of [...this.#running]) {
      const state = await this.#checkPulse(task, attempt, states.get(attempt.handle ?? ''));
      if (state?.state !== 'ended') continue;
      this.#running.delete(task);
      this.#settle(task, attempt, await task.judge(state, attempt.attempt));
    }
  }

  /** A job that is said to run, and gives no sign of life, is ended: its next attempt goes on. */
  async #checkPulse(
    task: Task<Entry>,
    { key, handle }: Attempt,
    state: JobState | undefined,
  ): Promise<JobState | undefined> {
    const { heartbeat, executor } = this.#options;
    if (heartbeat === null || handle === undefined || state?.state !== 'running' || task.signs.length === 0)
      return state;
    if (!heartbeat.isStalled(key, task.signs)) return state;
    for (let times = 0; times < 2; times++) await executor.cancel(handle); // at once
    return { state: 'ended', code: null, why: 'gave no sign of life for too long (executor.stall_seconds)' };
  }

  #settle(task: Task<Entry>, attempt: Attempt, verdict: Verdict<Entry>): void {
    const { outcome } = verdict;
    if (outcome === 'finished') this.#end(task, attempt, verdict);
    else if (this.#numCancelled > 0)
      this.#end(task, attempt, { ...verdict, outcome: 'cancelled', class: verdict.class ?? 'cancelled' });
    else if (outcome === 'failed') this.#fail(task, attempt, verdict);
    else if (verdict.class === 'out_of_memory') this.#replace(task, attempt, verdict);
    else {
      const endings = this.#attemptsOf(task).flatMap(({ ended }) => ended ?? []);
      const numLost = countLost([...endings, verdict]);
      const why = `${verdict.why}; tried ${numLost} times`;
      if (numLost >= this.#options.maxAttempts) this.#fail(task, attempt, { ...verdict, outcome: 'failed', why });
      else {
        this.#end(task, attempt, verdict);
        this.#waiting.unshift(task);
      }
    }
  }

  #replace(task: Task<Entry>, attempt: Attempt, verdict: Verdict<Entry>): void {
    const smaller = task.shrink();
    if (smaller === undefined) this.#fail(task, attempt, { ...verdict, outcome: 'failed' });
    else {
      this.#end(task, attempt, verdict);
      this.#record(...smaller.entries);
      this.#waiting.unshift(...smaller.tasks);
    }
  }

  /** A user's error stops all in every mode: what one command cannot read, the next will not either. */
  #fail(task: Task<Entry>, attempt: Attempt, verdict: Verdict<Entry>): void {
    const { why } = verdict;
    const { failure } = this.#options;
    const given = failure === 'continue' && verdict.class !== 'user' ? task.abandon(why ?? '') : undefined;
    this.#end(task, attempt, { ...verdict, entries: [...verdict.entries, ...(given ?? [])] });
    if (given !== undefined) return;
    const message = `${task.name}  ${why}`;
    const advice = `Its log is ${task.logFile}. The same command tries it again.`;
    this.#halt ??=
      verdict.class === 'user' ? new UserError([message, advice]) : new RuntimeFailure(`${message}\n${advice}`);
  }

  #end(task: Task<Entry>, attempt: Attempt, { entries, endedAt, ...ending }: Verdict<Entry>): void {
    const seconds = Math.max(0, ((endedAt ?? Date.now()) - Date.parse(attempt.began)) / 1000);
    this.#record(...entries, { kind: 'ended', ...this.#about(task, attempt), ...ending, seconds });
  }

  #record(...entries: (Entry | AttemptEntry)[]): void {
    if (entries.length === 0) return;
    this.#options.record(entries);
  }

  /** The first request to stop, or a failure under `kill`, lets the commands save and end; a second one does not. */
  async #obeyStop(): Promise<void> {
    const { stop, failure, executor } = this.#options;
    const wanted = Math.max(stop.requested, Number(failure === 'kill' && this.#halt !== undefined));
    if (wanted <= this.#numCancelled) return;
    this.#numCancelled = wanted;
    const handles = [...this.#running.values()].flatMap(({ handle }) => handle ?? []);
    await Promise.all(handles.map((handle) => executor.cancel(handle)));
  }

  #isHalted(): boolean {
    return this.#halt !== undefined || this.#options.stop.requested > 0;
  }

  #attemptsOf(task: Task<Entry>): Attempt[] {
    return this.#options.attempts.get(task.name) ?? [];
  }

  #about(task: Task<Entry>, attempt: Attempt): { cohort: string; attempt: number } {
    return { cohort: task.name, attempt: attempt.attempt };
  }
}
