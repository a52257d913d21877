/** Videos that could not be used: each is told once, and more of them than allowed end the work. */

import { UserError } from '../base/errors.ts';
import type { Report } from '../base/printer.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';
import type { BadVideo } from '../runtime/replies.ts';
import { countAllowed } from './list.ts';

export interface BadVideoRules {
  report: Report;
  /** null: any number; each counts as an error of its own. */
  limit: Pick<Config['data'], 'max_bad_fraction' | 'on_bad_video'> | null;
  /** What cannot be done with them. */
  done: 'read' | 'prepared';
  /** Where they are kept, and what keeps them; else in memory. */
  listedIn?: string;
  add?: (video: BadVideo) => { isNew: boolean; numBad: number };
}

export class BadVideos {
  readonly #rules: BadVideoRules;
  readonly #paths = new Set<string>();

  constructor(rules: BadVideoRules) {
    this.#rules = rules;
  }

  /** Counts a video of so many; another view or line of one is none. Throws UserError when there are more than allowed. */
  count(video: BadVideo, numVideos: number, step?: number): void {
    const { isNew, numBad } = (this.#rules.add ?? this.#add)(video);
    const at = step === undefined ? {} : { step };
    if (isNew) this.#rules.report.event({ kind: 'bad_video', ...at, ...video, num_bad: numBad, num_videos: numVideos });
    const { limit, done, listedIn } = this.#rules;
    if (limit === null) return;
    const { on_bad_video: onBad, max_bad_fraction: share } = limit;
    const allowed = onBad === 'fail' ? 0 : countAllowed(share, numVideos);
    if (numBad <= allowed) return;
    const rule = `data.on_bad_video: ${onBad} with data.max_bad_fraction: ${share} allows ${allowed}`;
    const where = listedIn === undefined ? '' : ` They are listed in ${listedIn}.`;
    throw new UserError(
      `${video.path}  ${video.reason}. ${numBad} of ${plural(numVideos, 'video')} cannot be ${done}, and ${rule}.${where} ` +
        'Mend or remove them, or raise the limit.',
    );
  }

  readonly #add = ({ path }: BadVideo): { isNew: boolean; numBad: number } => {
    const isNew = !this.#paths.has(path);
    this.#paths.add(path);
    return { isNew, numBad: this.#paths.size };
  };
}
