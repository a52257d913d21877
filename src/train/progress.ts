/** How fast a run goes, and what its progress bar says: means since the last report, and what is left. */

import type { Step } from '../runtime/replies.ts';

export class Pace {
  /** Of late steps more than of early ones. */
  #secondsPerStep: number | null = null;
  #clips = 0;
  #dataSeconds = 0;
  #stepSeconds = 0;
  #steps = 0;
  #etaSeconds = 0;

  /** Takes a step in; returns what a progress bar says of it. */
  add({ step, clips, data_seconds, step_seconds }: Step, numSteps: number): { etaSeconds: number; detail: string } {
    this.#secondsPerStep = 0.7 * (this.#secondsPerStep ?? step_seconds) + 0.3 * step_seconds;
    this.#clips += clips;
    this.#dataSeconds += data_seconds;
    this.#stepSeconds += step_seconds;
    this.#steps += 1;
    this.#etaSeconds = (numSteps - step) * this.#secondsPerStep;
    const waiting = `waiting for data ${((100 * data_seconds) / step_seconds).toFixed(0)} %`;
    return { etaSeconds: this.#etaSeconds, detail: `${(clips / step_seconds).toFixed(1)} clips/s, ${waiting}` };
  }

  /** The fields of a `step` event, over the steps since the last one. */
  takeMeans() {
    const means = {
      clips_per_second: this.#clips / this.#stepSeconds,
      data_seconds: this.#dataSeconds / this.#steps,
      step_seconds: this.#stepSeconds / this.#steps,
      eta_seconds: this.#etaSeconds,
    };
    this.#clips = this.#dataSeconds = this.#stepSeconds = this.#steps = 0;
    return means;
  }

  /** null before the first step. */
  countEta(step: number, numSteps: number): number | null {
    return this.#secondsPerStep === null ? null : (numSteps - step) * this.#secondsPerStep;
  }

  /** The steps that fit into so many seconds, one before the first step. */
  countFitting(seconds: number): number {
    return this.#secondsPerStep === null ? 1 : Math.floor(seconds / this.#secondsPerStep);
  }
}
