/** The videos of a folder by their names, for layouts that name clips without saying where they lie. */

import { basename, resolve } from 'node:path';
import { plural, quote } from '../../../base/words.ts';
import { isVideoName, walkFiles } from '../folders.ts';
import type { LeftOut, Place } from '../layout.ts';
import { showName } from '../names.ts';

const stemOf = (name: string): string => name.replace(/\.[^./]{1,5}$/, '');

export class Videos {
  readonly root: string;
  readonly #byName = new Map<string, string[]>();
  readonly #taken = new Set<string>();
  #numVideos = 0;
  #numTwice = 0;
  #firstTwice: string[] = [];

  constructor(folder: string) {
    this.root = resolve(folder);
    for (const { name, isHidden } of walkFiles(this.root)) {
      const path = showName(name);
      if (isHidden || typeof name !== 'string' || !isVideoName(path)) continue;
      this.#numVideos += 1;
      for (const key of new Set([path, basename(path), stemOf(basename(path))])) {
        const known = this.#byName.get(key);
        if (known === undefined) this.#byName.set(key, [path]);
        else if (!known.includes(path)) known.push(path);
      }
    }
  }

  /** Returns the video of one of these names (paths, file names, or such without their ending), the first that is there;
   * of several of one name the one in a folder of those. */
  find(names: string[], folders: string[] = []): string | undefined {
    for (const name of names) {
      const found = this.#byName.get(name) ?? this.#byName.get(stemOf(name));
      if (found === undefined) continue;
      const isIn = (path: string): boolean => folders.some((folder) => path.split('/').slice(0, -1).includes(folder));
      const chosen = found.find(isIn) ?? found[0];
      if (found.filter((path) => isIn(path) === isIn(chosen ?? '')).length > 1 && this.#numTwice++ === 0)
        this.#firstTwice = found;
      if (chosen !== undefined) this.#taken.add(chosen);
      return chosen;
    }
    return undefined;
  }

  /** Returns what is to be said of a clip without a video. */
  leaveMissing(name: string, { list, line }: Place): LeftOut {
    return { code: 'missing', path: name, list, line, message: `is no video below ${this.root}.` };
  }

  /** What should be known of the folder when all clips were looked for. */
  describe(): string[] {
    const notes: string[] = [];
    if (this.#numTwice > 0) {
      const [first, second] = this.#firstTwice;
      notes.push(
        `${this.root}  ${plural(this.#numTwice, 'name')} of several videos, ${quote(first ?? '')} and ${quote(second ?? '')} for one: the first is taken.`,
      );
    }
    const left = this.#numVideos - this.#taken.size;
    if (left > 0) notes.push(`${this.root}  ${plural(left, 'video')} that no annotation names.`);
    return notes;
  }
}
