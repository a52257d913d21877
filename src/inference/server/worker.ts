/** The one Python behind the server: it is started, watched, and started again when it dies. */

import { setTimeout as sleep } from 'node:timers/promises';
import { Interrupted, RuntimeFailure } from '../../base/errors.ts';
import type { Opened } from '../../runtime/replies.ts';
import { type Runtime, startRuntime } from '../../runtime/runtime.ts';
import { type OpenRequest, Session } from '../../runtime/session.ts';
import { endRuntime } from '../../runtime/with-session.ts';

const MOST_STARTS = 5; // in a row without one that came up
const MOST_WAIT_SECONDS = 8;

export interface WorkerOptions {
  request: OpenRequest;
  stallSeconds: number;
  logFile: string;
  /** It died, and why; another one is about to be started. */
  onDeath: (why: string) => void;
}

export class Worker {
  /** Rejects when no further start is tried. */
  readonly broken: Promise<never>;
  isReady = false;
  numRestarts = 0;
  /** Of the checkpoint, once it is loaded. */
  step: number | null = null;
  readonly #options: WorkerOptions;
  #runtime: Runtime | undefined;
  #session: Promise<Session>;
  #isClosing = false;
  #come: (session: Session) => void = () => {};
  #break: (error: unknown) => void = () => {};

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.broken = new Promise((_, reject) => {
      this.#break = reject;
    });
    this.broken.catch(() => {}); // whoever waits for it is told as well
    this.#session = new Promise((settle) => {
      this.#come = settle;
    });
  }

  /** Starts the first one. What cannot be opened now is not tried again. */
  async start(): Promise<Opened> {
    const { session, opened } = await this.#start();
    this.#come(session);
    return opened;
  }

  /** Does work in the session, and kills Python where that takes too long; what others do `meanwhile` has its own time.
   * Throws RuntimeFailure where Python died. */
  async use<T>(
    seconds: number,
    work: (session: Session, meanwhile: (others: () => Promise<void>) => Promise<void>) => Promise<T>,
  ): Promise<T> {
    const session = await this.#session;
    const watch = (): NodeJS.Timeout => setTimeout(() => session.runtime.kill(), seconds * 1000);
    let overdue = watch();
    try {
      return await work(session, async (others) => {
        clearTimeout(overdue);
        await others();
        overdue = watch();
      });
    } catch (error) {
      if (error instanceof RuntimeFailure) await session.runtime.ended; // from here on the next one is waited for
      throw error;
    } finally {
      clearTimeout(overdue);
    }
  }

  kill(): void {
    this.#isClosing = true;
    this.#runtime?.kill();
  }

  async close(): Promise<void> {
    if (!this.isReady) this.kill(); // it may be loading for a while yet
    this.#isClosing = true;
    this.isReady = false;
    await this.#runtime?.close().catch(() => {}); // what was asked for has been answered
  }

  async #start(): Promise<{ session: Session; opened: Opened }> {
    const { request, stallSeconds, logFile } = this.#options;
    const runtime = await startRuntime({ stallSeconds, logFile });
    this.#runtime = runtime;
    const session = new Session(runtime);
    try {
      if (this.#isClosing) throw new Interrupted('stopped');
      const opened = await session.open(request);
      this.step = opened.step;
      this.isReady = true;
      runtime.ended.then((how) => this.#goOn(runtime, how));
      return { session, opened };
    } catch (error) {
      await endRuntime(runtime);
      throw error;
    }
  }

  /** Python has ended. */
  #goOn(dead: Runtime, how: string): void {
    this.isReady = false;
    if (this.#isClosing) return;
    this.numRestarts += 1;
    this.#options.onDeath(how);
    this.#session = endRuntime(dead).then(() => this.#startAgain());
    this.#session.catch((error: unknown) => this.#break(error));
  }

  async #startAgain(): Promise<Session> {
    for (let starts = 1; ; starts++) {
      try {
        return (await this.#start()).session;
      } catch (error) {
        if (this.#isClosing || starts === MOST_STARTS) throw error;
        await sleep(Math.min(MOST_WAIT_SECONDS, 2 ** starts) * 1000);
      }
    }
  }
}
