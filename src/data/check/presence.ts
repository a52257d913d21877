/** Whether the clips of a list are there, a batch at a time, and what is said of those that are not. */
import { resolve } from 'node:path';
import { type Clip, HASH_RULE, type Scan } from '../scan.ts';
import { explainFault, type Fault, isFault, lookForAll, type SeenFile } from './files.ts';
import type { Finding } from './findings.ts';
import { isVideoName, sniff } from './sniff.ts';
import { Suggestions } from './suggest.ts';

/** Where so many were looked for and none is there, the others need no look. */
const HOPELESS = 1000;
/** All of so many are opened, and then as many of twice, four times ... as many. */
const SNIFFED = 1000;
/** What a download that failed leaves is smaller than a clip. */
const SMALL_BYTES = 16 << 10;
/** A look around a missing file takes longer than one at a file. */
const MAX_SUGGESTED = 1000;

interface Absent extends Fault {
  clip: Clip;
}

export class Presence {
  numLooked = 0;
  readonly #scan: Scan;
  readonly #suggestions = new Suggestions();
  readonly #countAllowed: (numLooked: number) => number;
  #absent: Absent[] = [];
  #numAbsent = 0;
  #numSuggested = 0;
  #numSniffable = 0;

  /** `countAllowed` says how many of so many may be absent; they are warnings then. */
  constructor(scan: Scan, countAllowed: (numLooked: number) => number) {
    this.#scan = scan;
    this.#countAllowed = countAllowed;
  }

  async look(clips: Clip[]): Promise<void> {
    if (this.#isHopeless) return;
    const { root, found } = this.#scan;
    const paths = clips.map((clip) => resolve(root, clip.path));
    for (const [index, file] of (await lookForAll(paths)).entries()) {
      const [clip, path] = [clips[index] as Clip, paths[index] as string];
      const seen = this.#sniff(path, file);
      if (isFault(seen)) {
        this.#absent.push({ clip, ...seen });
        this.#numAbsent += 1;
        continue;
      }
      const { line, label, part } = clip; // written out: of a million clips a spread takes a second
      const { id, size, mtime } = seen;
      found.push(
        part === undefined ? { path, line, label, id, size, mtime } : { path, line, label, part, id, size, mtime },
      );
    }
    this.numLooked += clips.length;
    if (this.#countAllowed(Number.MAX_SAFE_INTEGER) === 0 && found.length > 0) this.#tellAbsent(false);
  }

  /** Where every file is looked for, small ones, others by their name, and some of the rest have to look like videos. */
  #sniff(path: string, seen: SeenFile | Fault): SeenFile | Fault {
    if (isFault(seen) || !this.#scan.options.everyFile) return seen;
    this.#numSniffable += 1;
    const step = 2 ** Math.floor(Math.log2(this.#numSniffable / SNIFFED + 1));
    if (seen.size > SMALL_BYTES && isVideoName(path) && this.#numSniffable % step !== 0) return seen;
    try {
      const kind = sniff(path);
      return kind === undefined ? seen : { code: 'not-a-video', text: `is ${kind}, not a video` };
    } catch (error) {
      return explainFault(error);
    }
  }

  /** Comments that may be clips. */
  async lookAtSuspects(suspects: Clip[]): Promise<void> {
    const paths = suspects.map((clip) => resolve(this.#scan.root, clip.path));
    for (const [index, seen] of (await lookForAll(paths)).entries()) {
      if (isFault(seen)) continue;
      const { path: listed, line } = suspects[index] as Clip;
      const path = paths[index] as string;
      const advice = `Write \`./${listed}\` if it is a clip; else begin the comment with \`## \``;
      this.#scan.fail('comment', line, `is a comment, and ${path} exists. ${advice}.`, { path });
    }
  }

  /** Tells what is absent; where nothing is there, the root is at fault, or the only clip. */
  finish(): void {
    const [first] = this.#absent;
    if (first === undefined) return;
    if (this.#numAbsent < this.numLooked) this.#tellAbsent(this.#numAbsent <= this.#countAllowed(this.numLooked));
    else {
      const num = this.numLooked;
      const which = num === 1 ? 'the only clip is not there' : `none of the ${num} clips looked for is there`;
      const { code, text, more } = this.#explain(first);
      const message = `${which}. The data root is ${this.#scan.root}; first ${text}`;
      this.#scan.fail(code, first.clip.line, message, more);
    }
  }

  get #isHopeless(): boolean {
    return this.numLooked >= HOPELESS && this.#numAbsent === this.numLooked;
  }

  #tellAbsent(isAllowed: boolean): void {
    for (const one of this.#absent) {
      const { code, text, more } = this.#explain(one);
      if (isAllowed) this.#scan.warn(code, one.clip.line, `${text} It will be skipped.`, more);
      else this.#scan.fail(code, one.clip.line, text, more);
    }
    this.#absent = [];
  }

  #explain({ clip, code, text }: Absent): { code: Fault['code']; text: string; more: Partial<Finding> } {
    const { root, options } = this.#scan;
    const path = resolve(root, clip.path);
    const rule = clip.path.startsWith('#') ? ` (${HASH_RULE})` : '';
    const what = `${path} ${text}${rule}.`;
    const more = { path, label: clip.label };
    const isSought = code === 'missing' && this.#numSuggested < MAX_SUGGESTED;
    if (isSought) this.#numSuggested += 1;
    const hint = isSought ? this.#suggestions.suggest(clip.path, root, options.file) : undefined;
    if (hint === undefined) return { code, text: what, more };
    const meant = hint.path === null ? {} : { did_you_mean: hint.path };
    return { code: hint.code, text: `${what} ${hint.advice}`, more: { ...more, ...meant } };
  }
}
