/** What waits for the worker, in the order in which it came; predictions that wait are done together, and long work lets
 * them by. */

import { RuntimeFailure } from '../../base/errors.ts';
import type { Session } from '../../runtime/session.ts';
import { Refusal } from './refusal.ts';
import type { Worker } from './worker.ts';

const MOST_DEATHS = 2; // of Python during one piece of work, the last time alone: then it is the work's fault

/** What is done with several pieces of work at once; an answer may be a refusal. Long work calls `letBy` now and then. */
export type Together<I, O> = (session: Session, inputs: I[], letBy: () => Promise<void>) => Promise<(O | Refusal)[]>;

interface Job {
  work: Together<unknown, unknown>;
  isLong: boolean;
  input: unknown;
  numDeaths: number;
  settle: (answer: unknown) => void;
  fail: (error: unknown) => void;
}

export interface LineOptions {
  worker: Worker;
  /** How many pieces of work are done together. */
  most: number;
  /** From asking to the answer. */
  seconds: number;
  onCall: (numJobs: number, seconds: number) => void;
  onBug: (error: unknown) => void;
}

export class Line {
  readonly #options: LineOptions;
  readonly #jobs: Job[] = [];
  #isRunning = false;

  constructor(options: LineOptions) {
    this.#options = options;
  }

  get numWaiting(): number {
    return this.#jobs.length;
  }

  /** Returns the answer to one input. Throws Refusal, also when it took too long, or when `left` says that nobody waits
   * for it any more. */
  ask<I, O>(work: Together<I, O>, input: I, left: AbortSignal, { isLong = false } = {}): Promise<O> {
    const { seconds } = this.#options;
    return new Promise<O>((settle, fail) => {
      const end = (): void => {
        clearTimeout(overdue);
        left.removeEventListener('abort', leave);
        this.#drop(job);
      };
      const job: Job = {
        ...{ work: work as Together<unknown, unknown>, isLong, input, numDeaths: 0 },
        settle: (answer) => {
          end();
          settle(answer as O);
        },
        fail: (error) => {
          end();
          fail(error);
        },
      };
      const late = `The answer was not there within ${seconds} s. Try a shorter video, or later.`;
      const overdue = setTimeout(() => job.fail(new Refusal('too_slow', late)), seconds * 1000);
      const leave = (): void => job.fail(new Refusal('torn', 'The client left.'));
      left.addEventListener('abort', leave, { once: true });
      if (left.aborted) return leave();
      this.#jobs.push(job);
      void this.#run();
    });
  }

  #drop(job: Job): void {
    const at = this.#jobs.indexOf(job);
    if (at >= 0) this.#jobs.splice(at, 1);
  }

  /** Works until nothing waits. */
  async #run(): Promise<void> {
    if (this.#isRunning) return;
    this.#isRunning = true;
    await Promise.resolve(); // what is asked in the same moment goes together
    while (this.#jobs.length > 0) await this.#doTogether(this.#take(this.#jobs));
    this.#isRunning = false;
  }

  /** Does what is short and waits now: what comes meanwhile waits for the next time, or long work would never go on. */
  async #letBy(): Promise<void> {
    const waiting = this.#jobs.filter(({ isLong }) => !isLong);
    for (let left = waiting; left.length > 0; left = waiting.filter((job) => this.#jobs.includes(job)))
      await this.#doTogether(this.#take(left));
  }

  /** The first of these, and others of its kind. */
  #take(jobs: Job[]): Job[] {
    const [first] = jobs;
    const taken = jobs.filter(({ work }) => work === first?.work).slice(0, this.#options.most);
    for (const job of taken) this.#drop(job);
    return taken;
  }

  async #doTogether(jobs: Job[]): Promise<void> {
    const { worker, seconds, onCall, onBug } = this.#options;
    const [first] = jobs;
    if (first === undefined) return;
    let begin = performance.now();
    let diedOfOthers = false;
    const letBy = async (): Promise<void> => {
      const [left, restarts] = [performance.now(), worker.numRestarts];
      await this.#letBy();
      begin += performance.now() - left; // theirs is counted with them
      diedOfOthers ||= worker.numRestarts > restarts;
    };
    try {
      const answers = await worker.use(seconds, (session, meanwhile) =>
        first.work(
          session,
          jobs.map(({ input }) => input),
          () => meanwhile(letBy),
        ),
      );
      for (const [index, job] of jobs.entries()) {
        const answer = answers[index];
        if (answer instanceof Refusal) job.fail(answer);
        else job.settle(answer);
      }
    } catch (error) {
      const isDead = error instanceof RuntimeFailure;
      if (isDead && !diedOfOthers) for (const job of jobs) job.numDeaths += 1;
      if (jobs.length > 1) {
        for (const job of jobs) await this.#doTogether([job]); // one of them spoils it for the others
        return;
      }
      if (isDead && first.numDeaths < MOST_DEATHS) return this.#doTogether(jobs);
      if (!isDead) onBug(error);
      first.fail(new Refusal('failed', explain(error)));
    } finally {
      onCall(jobs.length, (performance.now() - begin) / 1000);
    }
  }
}

const explain = (error: unknown): string =>
  error instanceof RuntimeFailure
    ? 'Python ended each time that this video was looked at.'
    : `The video could not be looked at: ${error instanceof Error ? error.message : String(error)}`;
