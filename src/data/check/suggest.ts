/** What a path that is not there may have meant: another spelling of a name that is, or the same path below another folder. */
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, extname, isAbsolute, join, relative, resolve } from 'node:path';
import { distance } from 'fastest-levenshtein';
import type { Code } from './findings.ts';
import { isVideoName } from './sniff.ts';

/** A path that is there, and how the one that is not differs from it. */
export interface Hint {
  code: Code;
  path: string | null;
  advice: string;
}

/** Names of a folder by the forms in which they may be written otherwise. */
interface Listing {
  names: Set<string>;
  byForm: Map<string, string>;
  byFold: Map<string, string>;
  byStem: Map<string, string>;
}

type Spelling = 'same' | 'unicode-mismatch' | 'case-mismatch' | 'missing';
interface Found {
  path: string;
  spelling: Spelling;
}

const GRAVITY: Spelling[] = ['same', 'unicode-mismatch', 'case-mismatch', 'missing'];
const MAX_FOLDERS = 2000;
/** Names of which so many would have to be compared letter by letter are not. */
const MAX_COMPARED = 2000;
/** One wrong letter in so many is a slip; in a shorter name it is another name. */
const LETTERS_A_TYPO = 5;
const MAX_TYPOS = 2;

const foldName = (name: string): string => name.normalize('NFC').toLowerCase();
const stemOf = (name: string): string => foldName(name.slice(0, name.length - extname(name).length));

/** Looks around missing files; folders are read once. */
export class Suggestions {
  readonly #listings = new Map<string, Listing | null>();
  readonly #folders = new Map<string, Found | null>();

  /** Returns what a path as it is listed, below `root`, may have meant; `list` is the file that it stands in. */
  suggest(listed: string, root: string, list: string): Hint | undefined {
    const path = resolve(root, listed);
    return this.#suggestSlashes(listed, root) ?? this.#suggestSpelling(path) ?? suggestRoot(listed, root, list);
  }

  #suggestSlashes(listed: string, root: string): Hint | undefined {
    if (!/\\|^[A-Za-z]:/.test(listed)) return undefined;
    const plain = listed.replaceAll('\\', '/').replace(/^[A-Za-z]:/, '');
    const rule = 'It is a path of Windows; here folders are separated by `/`, and there are no drive letters';
    const path = resolve(root, plain);
    const found = existsSync(path) ? { path } : (this.#findSpelled(path) ?? suggestRoot(plain, root, null));
    if (found?.path == null) return { code: 'windows-path', path: null, advice: `${rule}.` };
    return { code: 'windows-path', path: found.path, advice: `${rule}. Did you mean ${found.path}?` };
  }

  #suggestSpelling(path: string): Hint | undefined {
    const found = this.#findSpelled(path);
    if (found === null) return undefined;
    const why = {
      'unicode-mismatch': 'The same letters are there in another Unicode form (NFC and NFD). ',
      'case-mismatch': 'It is there in other upper and lower case. ',
      missing: '',
      same: '',
    };
    const code = found.spelling === 'same' ? 'missing' : found.spelling;
    return { code, path: found.path, advice: `${why[found.spelling]}Did you mean ${found.path}?` };
  }

  #findSpelled(path: string): Found | null {
    const folder = this.#findFolder(dirname(path));
    if (folder === null) return null;
    const name = basename(path);
    const found = this.#findName(folder.path, name) ?? this.#findLike(folder.path, name);
    return found === null ? null : worse(folder, found);
  }

  /** Returns the folder as it is spelled on the disk. */
  #findFolder(folder: string): Found | null {
    if (folder === dirname(folder)) return { path: folder, spelling: 'same' };
    const known = this.#folders.get(folder);
    if (known !== undefined) return known;
    const parent = this.#findFolder(dirname(folder));
    const found = parent === null ? null : this.#findName(parent.path, basename(folder));
    const whole = parent === null || found === null ? null : worse(parent, found);
    if (this.#folders.size < MAX_FOLDERS) this.#folders.set(folder, whole);
    return whole;
  }

  /** Returns a name that differs in case or in Unicode form alone. */
  #findName(folder: string, name: string): Found | null {
    const listing = this.#list(folder);
    if (listing === null) return null;
    if (listing.names.has(name)) return { path: join(folder, name), spelling: 'same' };
    const form = listing.byForm.get(name.normalize('NFC'));
    if (form !== undefined) return { path: join(folder, form), spelling: 'unicode-mismatch' };
    const fold = listing.byFold.get(foldName(name));
    return fold === undefined ? null : { path: join(folder, fold), spelling: 'case-mismatch' };
  }

  /** Returns a name with another extension, or else the nearest one. */
  #findLike(folder: string, name: string): Found | null {
    const listing = this.#list(folder);
    if (listing === null) return null;
    const same = listing.byStem.get(stemOf(name)) ?? listing.byStem.get(foldName(name));
    if (same !== undefined) return { path: join(folder, same), spelling: 'missing' };
    const maxTypos = Math.min(MAX_TYPOS, Math.floor(stemOf(name).length / LETTERS_A_TYPO));
    if (listing.names.size > MAX_COMPARED || maxTypos === 0) return null;
    const near = [...listing.names]
      .filter((other) => Math.abs(other.length - name.length) <= maxTypos && isVideoName(other))
      .map((other) => ({ other, typos: distance(other, name) }))
      .filter(({ other, typos }) => typos <= maxTypos && !isOtherNumber(other, name))
      .sort((a, b) => a.typos - b.typos);
    const [nearest, second] = near;
    if (nearest === undefined || second?.typos === nearest.typos) return null; // of two as near neither is meant
    return { path: join(folder, nearest.other), spelling: 'missing' };
  }

  #list(folder: string): Listing | null {
    const known = this.#listings.get(folder);
    if (known !== undefined) return known;
    if (this.#listings.size >= MAX_FOLDERS) this.#listings.clear();
    const made = readFolder(folder);
    this.#listings.set(folder, made);
    return made;
  }
}

function readFolder(folder: string): Listing | null {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return null; // none there, or none that may be read: there is nothing to suggest
  }
  const by = (form: (name: string) => string, of = names): Map<string, string> =>
    new Map(of.map((name) => [form(name), name]));
  return {
    names: new Set(names),
    byForm: by((name) => name.normalize('NFC')),
    byFold: by(foldName),
    byStem: by(stemOf, names.filter(isVideoName)),
  };
}

/** `clip_12.mp4` is no misspelt `clip_13.mp4`. */
function isOtherNumber(one: string, other: string): boolean {
  const plain = (name: string): string => name.replaceAll(/\d+/g, '0');
  return /\d/.test(one) && plain(one) === plain(other);
}

const worse = (folder: Found, { path, spelling }: Found): Found => {
  const gravest = Math.max(GRAVITY.indexOf(folder.spelling), GRAVITY.indexOf(spelling));
  return { path, spelling: GRAVITY[gravest] ?? 'missing' };
};

/** Returns the same path below another folder: a list of one folder and the root of another. */
function suggestRoot(listed: string, root: string, list: string | null): Hint | undefined {
  if (isAbsolute(listed)) return suggestBelow(listed, root);
  const folders = [...(list === null ? [] : [dirname(resolve(list)), dirname(dirname(resolve(list)))])];
  for (const folder of [...folders, dirname(root), process.cwd()]) {
    const path = resolve(folder, listed);
    if (folder === root || !existsSync(path)) continue;
    const advice = `It is below ${folder}, not below the root ${root}. Give --root ${folder}, or data.root in the configuration.`;
    return { code: 'outside-root', path, advice };
  }
  const [first = '', ...rest] = listed.split('/').filter((part) => part !== '.');
  const path = resolve(root, ...rest);
  if (rest.length === 0 || first === '..' || !existsSync(path)) return undefined;
  const advice = `The root has no folder ${first}, and has ${rest.join('/')}. Take ${first}/ away from the lines, or name the folder that holds it as root.`;
  return { code: 'outside-root', path, advice };
}

/** An absolute path of another machine, whose end is there below the root. */
function suggestBelow(listed: string, root: string): Hint | undefined {
  const parts = relative('/', listed).split('/');
  for (let from = 0; from < parts.length; from++) {
    const path = join(root, ...parts.slice(from));
    if (path === listed || !existsSync(path)) continue;
    const advice = `It lies outside of the root ${root}, below which ${parts.slice(from).join('/')} is. Write such paths, relative to the root.`;
    return { code: 'outside-root', path, advice };
  }
  return undefined;
}
