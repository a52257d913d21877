/**
 * A text kept of each file for the next time, by path, size and time of change, so that a second check of an unchanged list
 * costs a look at each file.
 *
 * It lies in the user's cache folder: lists are checked before there is a run, and several runs share one.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { appendWhole, makeFolder, writeWhole } from '../../base/files.ts';

/** A file as it is now. */
export interface SeenVideo {
  path: string;
  size: number;
  /** Of its last change, ms. */
  mtime: number;
}

const NUM_SHARDS = 256;
/** A shard that holds more old lines than others is written anew. */
const MIN_OLD_LINES = 1000;

/** Returns the folder where what is found in files is kept. */
export const findKeptFolder = (...names: string[]): string =>
  join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'coldframe', ...names);

export const describeUnkept = (why: string): string =>
  `${findKeptFolder()}  keeps what is found in clips, and cannot be written (${why}): the next check looks into them again. XDG_CACHE_HOME names another place.`;

/** The records of files, each after its path: `<size>\t<time>\t<text>`. */
interface Shard {
  lines: Map<string, string>;
  added: string[];
}

export class KeptTexts {
  readonly folder: string;
  readonly #shards = new Map<string, Shard>();
  readonly #byFolder = new Map<string, Shard>();
  /** Why nothing more is kept: a folder that cannot be written, a full disk. What is found is told all the same. */
  problem: string | undefined;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** Returns what is known of a file as it is now; `name` is its path, of a part of it what tells that apart. */
  find(name: string, { size, mtime }: Omit<SeenVideo, 'path'>): string | undefined {
    const line = this.#shardOf(name).lines.get(name);
    if (line === undefined) return undefined;
    const begin = `${size}\t${mtime}\t`;
    return line.startsWith(begin) ? line.slice(begin.length) : undefined;
  }

  /** Takes a text without a line feed. */
  add(name: string, { size, mtime }: Omit<SeenVideo, 'path'>, text: string): void {
    const line = `${size}\t${mtime}\t${text}`;
    const shard = this.#shardOf(name);
    shard.lines.set(name, line);
    shard.added.push(`${name}\t${line}\n`);
  }

  /** Brings what was added to the disk. */
  flush(): void {
    for (const [name, shard] of this.#shards) {
      if (shard.added.length === 0 || this.problem !== undefined) continue;
      try {
        makeFolder(this.folder);
        appendWhole(join(this.folder, name), shard.added.join(''));
      } catch (error) {
        if (!('syscall' in (error as object))) throw error;
        this.problem = (error as Error).message;
      }
      shard.added = [];
    }
  }

  /** Takes over what is kept in another folder. Throws where it cannot be written. */
  absorb(folder: string): void {
    makeFolder(this.folder);
    for (const name of existsSync(folder) ? readdirSync(folder) : []) {
      const text = readFileSync(join(folder, name), 'utf8');
      appendWhole(join(this.folder, name), text.slice(0, text.lastIndexOf('\n') + 1)); // not what a kill tore
    }
    this.#shards.clear();
    this.#byFolder.clear();
  }

  /** Clips of one folder share a shard: a list of a few folders reads a few of them. */
  #shardOf(path: string): Shard {
    const folder = dirname(path);
    const known = this.#byFolder.get(folder);
    if (known !== undefined) return known;
    const number = createHash('sha1').update(folder).digest().readUInt16BE() % NUM_SHARDS;
    const name = `${number.toString(16).padStart(2, '0')}.tsv`;
    const shard = this.#shards.get(name) ?? { lines: readShard(join(this.folder, name)), added: [] };
    this.#shards.set(name, shard);
    this.#byFolder.set(folder, shard);
    return shard;
  }
}

function readShard(file: string): Map<string, string> {
  const lines = new Map<string, string>();
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return lines; // not there yet, or not to be read: then nothing is known
  }
  let numLines = 0;
  for (let start = 0, end = text.indexOf('\n'); end !== -1; start = end + 1, end = text.indexOf('\n', start)) {
    const tab = text.indexOf('\t', start);
    if (tab === -1 || tab > end) continue;
    numLines += 1;
    lines.set(text.slice(start, tab), text.slice(tab + 1, end)); // of a path the last one counts
  }
  if (numLines - lines.size > Math.max(MIN_OLD_LINES, lines.size)) rewrite(file, lines);
  return lines;
}

/** What cannot be written stays as long as it is. */
function rewrite(file: string, lines: Map<string, string>): void {
  try {
    writeWhole(file, [...lines].map(([path, line]) => `${path}\t${line}\n`).join(''));
  } catch (error) {
    if (!('syscall' in (error as object))) throw error;
  }
}
