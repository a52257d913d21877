/** What `predict` found of each video: printed, and written where that is asked for. */

import { showPath, UserError } from '../../base/errors.ts';
import type { EventOf } from '../../base/events/event.ts';
import type { Report } from '../../base/printer.ts';
import { keepLine, plural } from '../../base/words.ts';
import { PredictionFile } from './prediction-file.ts';

type Predicted = EventOf<'predicted'>;

export class Told {
  readonly #report: Report;
  readonly #file: PredictionFile | undefined;
  readonly #failed: string[] = [];
  readonly #numVideos: number;
  #numDone = 0;

  constructor(numVideos: number, output: string | undefined, report: Report) {
    this.#numVideos = numVideos;
    this.#report = report;
    this.#file = output === undefined ? undefined : new PredictionFile(output);
  }

  /** Which video it is at, where there are several. */
  get place(): { place?: string } {
    return this.#numVideos === 1 ? {} : { place: `${this.#numDone + 1}/${this.#numVideos}` };
  }

  /** What is said of a video as a whole. */
  tell(found: Predicted): void {
    this.#numDone += 1;
    this.show(found);
    this.#report.progress('predict', this.#numDone, this.#numVideos);
  }

  /** A person who has a file of the results is not shown each. */
  show(found: Predicted): void {
    if (this.#report.json || this.#file === undefined) this.#report.event(found);
    this.#file?.add(found);
  }

  /** People read of it at the end, programs at its place. */
  fail(path: string, error: string): void {
    this.#numDone += 1;
    this.#failed.push(`${keepLine(path)}  ${error}`);
    const found: Predicted = { kind: 'predicted', path, error };
    if (this.#report.json) this.#report.event(found);
    this.#file?.add(found);
    this.#report.progress('predict', this.#numDone, this.#numVideos);
  }

  close(): void {
    if (this.#file === undefined) return;
    this.#report.endProgress();
    this.#file.close();
    if (this.#file.count > 0)
      this.#report.say(`${showPath(this.#file.path)}: ${this.#numDone} of ${plural(this.#numVideos, 'video')}`);
  }

  refuseFailed(): void {
    if (this.#failed.length === 0) return;
    const many = `${this.#failed.length} of ${plural(this.#numVideos, 'video')} could not be read.`;
    throw new UserError(this.#numVideos > 1 ? [...this.#failed, many] : this.#failed);
  }
}
