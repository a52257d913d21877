/** When it is time to save again: `run.save_minutes` after the last time, for work that a kill would take. */

export class SaveClock {
  readonly #seconds: number;
  readonly #now: () => number;
  #last: number;

  /** null: never. `now` gives seconds. */
  constructor(minutes: number | null, now: () => number = () => performance.now() / 1000) {
    this.#seconds = minutes === null ? Number.POSITIVE_INFINITY : minutes * 60;
    this.#now = now;
    this.#last = now();
  }

  get isDue(): boolean {
    return this.#now() - this.#last >= this.#seconds;
  }

  restart(): void {
    this.#last = this.#now();
  }
}
