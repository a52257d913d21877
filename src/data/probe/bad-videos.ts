/** Videos that could not be used: each is told once, and more of them than allowed end the work. */

import { showPath, UserError } from '../../base/errors.ts';
import type { Report } from '../../base/printer.ts';
import { plural, quoteWord } from '../../base/words.ts';
import type { Config } from '../../config/schema.ts';
import type { BadVideo } from '../../runtime/replies.ts';
import { countAllowed } from '../list.ts';

export interface BadVideoRules {
  report: Pick<Report, 'event'>;
  /** null: any number; each counts as an error of its own. */
  limit: Pick<Config['data'], 'max_bad_fraction' | 'on_bad_video'> | null;
  /** What cannot be done with them. */
  done: 'read' | 'prepared';
  /** The lists that they are of: `check --probe` finds the rest. */
  lists: ListPlace[];
  /** Where they are kept, and what keeps them; else in memory. */
  listedIn?: string;
  keep?: Keep;
}

/** Takes a bad video; returns whether it is told for the first time, and all that are known of its kind. */
type Keep = (video: BadVideo) => { isNew: boolean; all: ReadonlyMap<string, string> };

export interface ListPlace {
  file: string;
  /** Folder of its paths; null: its own. */
  root: string | null;
}

/** Named one by one; the rest is counted. */
export const MAX_SHOWN = 50;

export class BadVideos {
  readonly #rules: BadVideoRules;
  readonly #known = new Map<string, string>();

  constructor(rules: BadVideoRules) {
    this.#rules = rules;
  }

  /** Counts videos of so many; another view or line of one is none. Throws UserError with all that are known when there
   * are more than allowed. */
  count(videos: BadVideo[], numVideos: number, step?: number): void {
    const { report, keep = this.#keep } = this.#rules;
    const at = step === undefined ? {} : { step };
    let known: ReadonlyMap<string, string> | undefined;
    for (const video of videos) {
      const { isNew, all } = keep(video);
      known = all;
      if (isNew) report.event({ kind: 'bad_video', ...at, ...video, num_bad: all.size, num_videos: numVideos });
    }
    if (known !== undefined) this.refuse(known, numVideos);
  }

  /** Throws UserError where these are more than allowed: `reason` by path. */
  refuse(known: ReadonlyMap<string, string>, numVideos: number): void {
    refuseMany(known, numVideos, this.#rules);
  }

  readonly #keep: Keep = ({ path, reason }) => {
    const isNew = !this.#known.has(path);
    if (isNew) this.#known.set(path, reason);
    return { isNew, all: this.#known };
  };
}

/** Throws UserError where bad videos are more than allowed: `reason` by path. */
export function refuseMany(
  known: ReadonlyMap<string, string>,
  numVideos: number,
  { limit, done, lists, listedIn }: Omit<BadVideoRules, 'report' | 'keep'>,
): void {
  if (limit === null) return;
  const { on_bad_video: onBad, max_bad_fraction: share } = limit;
  const allowed = onBad === 'fail' ? 0 : countAllowed(share, numVideos);
  if (known.size <= allowed) return;
  const shown = [...known].slice(0, MAX_SHOWN).map(([path, reason]) => `${path}  ${reason}.`);
  const more = known.size - shown.length;
  const rule = `data.on_bad_video: ${onBad}${onBad === 'fail' ? '' : ` with data.max_bad_fraction: ${share}`} allows ${allowed}`;
  const where = listedIn === undefined ? '' : ` They are listed in ${listedIn}.`;
  throw new UserError([
    ...shown,
    ...(more > 0 ? [`and ${plural(more, 'more video')}.`] : []),
    `${lists.map(({ file }) => showPath(file)).join(', ') || 'data'}  ${known.size} of ${plural(numVideos, 'video')} cannot be ${done}, and ${rule}.` +
      `${where}${describeFinder(lists)} Mend or remove them, or raise the limit.`,
  ]);
}

/** The command that finds the rest, as it can be pasted. */
export function describeFinder(lists: ListPlace[]): string {
  const [first] = lists;
  if (first === undefined) return '';
  const files = lists.filter(({ root }) => root === first.root).map(({ file }) => quoteWord(showPath(file)));
  const root = first.root === null ? '' : ` --root ${quoteWord(showPath(first.root) || '.')}`;
  return ` \`coldframe check --probe ${files.join(' ')}${root}\` finds the rest.`;
}
