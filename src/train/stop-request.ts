/** What may end a run from outside: signals, and a later attempt at the same work. */

import { setTimeout as sleep } from 'node:timers/promises';
import { onStop } from '../base/process/stop.ts';

/** What is looked at and kept alive: the run folder. */
interface Fence {
  isFenced(): boolean;
  beat(): void;
}

/** What is ended at once: the runtime. */
interface Killable {
  kill(): void;
}

const FENCE_SECONDS = 0.5;
const BEATS = 6; // looks at the fence from one sign of life to the next

/**
 * A signal to stop asks the loop to end after the call under way; a second one ends Python at once. So does a later attempt:
 * its runtime waits for the lock of the folder, which only goes with this Python.
 */
export class StopRequest {
  readonly #abort = new AbortController();
  runtime: Killable | undefined;
  readonly #fence: NodeJS.Timeout;
  readonly #release: () => void;

  constructor(folder: Fence, note: (text: string) => void) {
    this.#release = onStop(() => {
      if (this.requested) this.runtime?.kill();
      else note('Stopping; the state is saved first. Once more ends it at once.');
      this.#abort.abort();
    });
    let numLooks = 0;
    this.#fence = setInterval(() => {
      if (isLost(folder)) this.runtime?.kill();
      else if (numLooks++ % BEATS === 0) beat(folder);
    }, FENCE_SECONDS * 1000).unref();
  }

  get requested(): boolean {
    return this.#abort.signal.aborted;
  }

  /** Waits, but no longer than until a stop is asked for. */
  async pause(seconds: number): Promise<void> {
    await sleep(seconds * 1000, undefined, { signal: this.#abort.signal }).catch(() => {});
  }

  release(): void {
    clearInterval(this.#fence);
    this.#release();
  }
}

/** A sign that cannot be given just now comes with the next one. */
function beat(folder: Fence): void {
  try {
    folder.beat();
  } catch {}
}

/** A file that cannot be read just now is no later attempt; the next write asks again, and says so. */
function isLost(folder: Fence): boolean {
  try {
    return folder.isFenced();
  } catch {
    return false;
  }
}
