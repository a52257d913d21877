/** What may end a run from outside: signals, and a later attempt at the same work. */

import { setTimeout as sleep } from 'node:timers/promises';
import { type Fence, watchFence } from '../base/process/fence.ts';
import { onStop } from '../base/process/stop.ts';

/** What is ended at once: the runtime. */
interface Killable {
  kill(): void;
}

/**
 * A signal to stop asks the loop to end after the call under way; a second one ends Python at once. So does a later attempt:
 * its runtime waits for the lock of the folder, which only goes with this Python.
 */
export class StopRequest {
  readonly #abort = new AbortController();
  runtime: Killable | undefined;
  readonly #endFence: () => void;
  readonly #release: () => void;

  constructor(folder: Fence, note: (text: string) => void) {
    this.#release = onStop(() => {
      if (this.requested) this.runtime?.kill();
      else note('Stopping; the state is saved first. Once more ends it at once.');
      this.#abort.abort();
    });
    this.#endFence = watchFence(folder, () => this.runtime?.kill());
  }

  get requested(): boolean {
    return this.#abort.signal.aborted;
  }

  /** Waits, but no longer than until a stop is asked for. */
  async pause(seconds: number): Promise<void> {
    await sleep(seconds * 1000, undefined, { signal: this.#abort.signal }).catch(() => {});
  }

  release(): void {
    this.#endFence();
    this.#release();
  }
}
