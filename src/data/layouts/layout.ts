/** What every layout of clips is read into: clips with the names of their classes, and what had to be left out. */

import type { FINDING_CODES } from '../../base/events/codes.ts';

type Code = (typeof FINDING_CODES)[number];

/** The lists that clips go to; `all`: nothing says which. */
export type Side = 'train' | 'val' | 'select' | 'test' | 'all';

/** What says something of a clip: a line of a file, or a folder. */
export interface Place {
  list: string;
  line: number | null;
}

export interface LaidOut extends Place {
  /** Below the folder of the videos, or absolute. */
  path: string;
  /** Its class, as the layout names it. */
  class: string;
  /** Seconds; both or none. */
  start?: number;
  end?: number;
  side?: Side;
  /** Of a data set with several splits, which one. */
  fold?: number;
  /** What it was cut from: clips of one group stand on one side. */
  group?: string;
}

/** Returns the classes of a clip, of several labels those of each. */
export const classesOf = (clip: { class: string }, isMulti: boolean): string[] =>
  !isMulti ? [clip.class] : clip.class === '-' ? [] : clip.class.split(',');

/** A clip, or what may be one, that stands in no list. */
export interface LeftOut extends Place {
  code: Code;
  path: string;
  /** What was found, and what to do. */
  message: string;
}

export interface Layout {
  /** Folder of the clips' relative paths. */
  root: string;
  clips: LaidOut[];
  leftOut: LeftOut[];
  /** The names in the order of their labels, where the layout fixes it. */
  classes?: string[];
  /** A clip has any number of classes: `class` is what its line says, `1,5,9` or `-`. */
  isMulti?: boolean;
  /** What else the user should know. */
  notes: string[];
}

const SIDES: Readonly<Record<string, Side>> = {
  ...{ train: 'train', training: 'train', fit: 'train', trn: 'train' },
  ...{ val: 'val', valid: 'val', validate: 'val', validation: 'val', dev: 'val', eval: 'val' },
  ...{ select: 'select', selection: 'select' },
  ...{ test: 'test', testing: 'test', tst: 'test' },
};
export const SIDE_WORDS = 'train, val (or validate, validation, valid, dev), select, test';

/** Returns which side a word of other people means, undefined if it is none. */
export const readSide = (word: string): Side | undefined => {
  const name = word.trim().toLowerCase();
  return Object.hasOwn(SIDES, name) ? SIDES[name] : undefined;
};

/** In the order of code points, as `LC_ALL=C sort` and Python have it. */
export function compareNames(a: string, b: string): number {
  // UTF-16 puts a surrogate pair before U+E000; bytes of UTF-8 do not.
  return /[\ud800-\uffff]/.test(a + b) ? Buffer.compare(Buffer.from(a), Buffer.from(b)) : a < b ? -1 : Number(a > b);
}
