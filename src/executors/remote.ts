/** What the executors for Slurm and Ray share: waiting for a controller that does not answer, and not asking it too often. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { JobState } from './executor.ts';

/** The controller cannot be asked, so nothing is known: least of all that a job has ended. */
export class NoAnswer extends Error {}

export interface RemoteOptions {
  /** Of the controller, for people. */
  name: string;
  /** Between two questions. */
  pollSeconds?: number;
  /** How long a start waits for an answer. */
  patienceSeconds?: number;
  note: (text: string) => void;
  /** Counts the requests to stop: nobody waits to start anything then. */
  stop: { readonly requested: number };
}

const NUM_MISSES = 2; // a controller that is just starting may answer before it has read its state

export class Remote {
  readonly #options: Required<RemoteOptions>;
  readonly #closing = new AbortController();
  #states = new Map<string, JobState>();
  readonly #numMissed = new Map<string, number>();
  #nextAsk = 0;
  #isAsking = false;
  #isSilent = false;
  #error: unknown;

  constructor(options: RemoteOptions) {
    this.#options = { pollSeconds: 5, patienceSeconds: 600, ...options };
  }

  /**
   * Returns what was last heard of each handle; asks anew, in the background, when that is old. `ask` leaves out what the
   * controller does not know.
   */
  watch(handles: string[], ask: (handles: string[]) => Promise<Map<string, JobState>>): Map<string, JobState> {
    if (this.#error !== undefined) throw this.#error;
    if (!this.#isAsking && performance.now() >= this.#nextAsk) void this.#refresh(handles, ask);
    this.#states = new Map(handles.map((handle) => [handle, this.#states.get(handle) ?? { state: 'waiting' }]));
    return this.#states;
  }

  async #refresh(handles: string[], ask: (handles: string[]) => Promise<Map<string, JobState>>): Promise<void> {
    this.#isAsking = true;
    try {
      const states = await ask(handles);
      this.#hear();
      for (const handle of handles) this.#keep(handle, states.get(handle));
    } catch (error) {
      if (error instanceof NoAnswer) this.#complain(error);
      else this.#error = error;
    } finally {
      this.#isAsking = false;
      this.#nextAsk = performance.now() + this.#options.pollSeconds * 1000;
    }
  }

  #keep(handle: string, state: JobState | undefined): void {
    const numMissed = state === undefined ? (this.#numMissed.get(handle) ?? 0) + 1 : 0;
    this.#numMissed.set(handle, numMissed);
    if (state !== undefined) this.#states.set(handle, state);
    else if (numMissed >= NUM_MISSES)
      this.#states.set(handle, { state: 'ended', code: null, why: `is not known to ${this.#options.name} any more` });
  }

  /** Calls again while there is no answer: until patience ends, or the user wants to stop. */
  async insist<Answer>(call: () => Promise<Answer>): Promise<Answer> {
    const end = performance.now() + this.#options.patienceSeconds * 1000;
    return this.#repeat(call, () => performance.now() < end && this.#options.stop.requested === 0);
  }

  /** Calls in the background until there is an answer. What else goes wrong is of no interest: the job is gone, or ends. */
  ensure(call: () => Promise<unknown>): void {
    this.#repeat(call, () => true).catch(() => {});
  }

  async #repeat<Answer>(call: () => Promise<Answer>, isWanted: () => boolean): Promise<Answer> {
    for (;;) {
      try {
        const answer = await call();
        this.#hear();
        return answer;
      } catch (error) {
        if (!(error instanceof NoAnswer) || !isWanted()) throw error;
        this.#complain(error);
      }
      await sleep(this.#options.pollSeconds * 1000, undefined, { signal: this.#closing.signal });
    }
  }

  #complain(error: NoAnswer): void {
    const { name, note } = this.#options;
    if (!this.#isSilent) note(`${name} does not answer; jobs go on, and so does the asking: ${error.message}`);
    this.#isSilent = true;
  }

  #hear(): void {
    if (this.#isSilent) this.#options.note(`${this.#options.name} answers again.`);
    this.#isSilent = false;
  }

  close(): void {
    this.#closing.abort();
  }
}

/** Returns a word as a POSIX shell takes it literally. */
export function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

/** Returns a line of shell that becomes the command, with its environment, folder and log. */
export function writeShell(job: {
  command: string[];
  cwd: string;
  env: Record<string, string>;
  logFile: string;
}): string {
  const variables = Object.entries(job.env).map(([name, value]) => `export ${name}=${quote(value)} && `);
  const command = job.command.map(quote).join(' ');
  return `cd ${quote(job.cwd)} && ${variables.join('')}exec ${command} >>${quote(job.logFile)} 2>&1`;
}
