/** Whether commands that run elsewhere still live: a controller may say `running` long after a machine has hung. */

import { statSync } from 'node:fs';

export class Heartbeat {
  readonly #seconds: number;
  readonly #last = new Map<string, { changed: number; seen: number }>();

  constructor(seconds: number) {
    this.#seconds = seconds;
  }

  /** Returns whether none of the files has changed for too long, counted by this machine's clock from the first call on. */
  isStalled(key: string, files: string[]): boolean {
    const changed = Math.max(...files.map(readChangeTime));
    const last = this.#last.get(key);
    if (last?.changed !== changed) this.#last.set(key, { changed, seen: performance.now() });
    else if (performance.now() - last.seen > this.#seconds * 1000) return true;
    return false;
  }
}

function readChangeTime(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}
