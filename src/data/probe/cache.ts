/**
 * What was found in videos, kept for the next time: by path, size and time of change, so that a second check of an unchanged
 * list costs a look at each file.
 *
 * It lies in the user's cache folder: lists are checked before there is a run, and several runs share one.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { appendWhole, makeFolder, writeWhole } from '../../base/files.ts';
import { PROJECT } from '../../base/paths.ts';
import type { Facts, Probe, Problem, Sampling } from '../../runtime/replies.ts';

/** A file as it is now. */
export interface SeenVideo {
  path: string;
  size: number;
  /** Of its last change, ms. */
  mtime: number;
}

/** What the result of a probe depends on besides the file. */
export interface ProbeRules {
  reader: string;
  /** null: any frame may be asked for. */
  sampling: Sampling | null;
  limitSeconds: number;
}

/** To be raised when what is found in the same file, or how it is written here, changes. */
const FORMAT = 1;
const NUM_SHARDS = 256;
/** A shard that holds more old lines than others is written anew. */
const MIN_OLD_LINES = 1000;

/** Facts in few bytes, of a million videos. */
type Packed = ReturnType<typeof pack>;

const pack = (facts: Facts) =>
  [
    facts.num_frames,
    facts.num_missing,
    facts.width,
    facts.height,
    facts.rate,
    facts.duration_seconds,
    facts.rotation,
    facts.codec,
    facts.container,
    (facts.is_variable_rate ? 1 : 0) | (facts.mirrored ? 2 : 0) | (facts.by_time ? 4 : 0),
  ] as const;

function unpack([frames, missing, width, height, rate, seconds, rotation, codec, container, flags]: Packed): Facts {
  return {
    num_frames: frames,
    num_missing: missing,
    width,
    height,
    rate,
    duration_seconds: seconds,
    rotation,
    codec,
    container,
    is_variable_rate: (flags & 1) !== 0,
    mirrored: (flags & 2) !== 0,
    by_time: (flags & 4) !== 0,
  };
}

/** Where probes are kept: a folder for each decoder, since another one may read what this one does not. */
export function findProbeFolder(reader: string): string {
  const home = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const [decoder = 'av'] = /^av==.*$/m.exec(readFileSync(join(PROJECT, 'requirements.txt'), 'utf8')) ?? [];
  return join(home, 'coldframe', 'probes', `${FORMAT}-${decoder.replace('==', '-')}-${reader}`);
}

/** The texts of a file's record, after its path. */
interface Shard {
  lines: Map<string, string>;
  added: string[];
}

export class ProbeCache {
  readonly folder: string;
  readonly #rules: ProbeRules;
  readonly #shards = new Map<string, Shard>();
  readonly #names = new Map<string, string>();
  /** Why nothing more is kept: a folder that cannot be written, a full disk. What is found is told all the same. */
  problem: string | undefined;

  constructor(rules: ProbeRules) {
    this.folder = findProbeFolder(rules.reader);
    this.#rules = rules;
  }

  /** Returns what is known of a file as it is now. */
  find({ path, size, mtime }: SeenVideo): Probe | undefined {
    const line = this.#shardOf(path).lines.get(path);
    const begin = `${size}\t${mtime}\t`;
    return line?.startsWith(begin) ? this.#read(line.slice(begin.length)) : undefined;
  }

  /** Keeps what was found, but for what is no matter of the file alone: a disk that did not answer, a process that died. */
  add({ path, size, mtime }: SeenVideo, { facts, problem, damage }: Probe): void {
    if (problem !== null && ['missing', 'unreachable'].includes(problem.fault)) return;
    const { sampling, limitSeconds } = this.#rules;
    const record = [
      facts === null ? null : pack(facts),
      problem,
      damage,
      damage === null ? null : sampling,
      problem?.fault === 'slow' ? limitSeconds : null,
    ];
    while (record.at(-1) === null && record.length > 1) record.pop();
    const line = `${size}\t${mtime}\t${JSON.stringify(record)}`;
    const shard = this.#shardOf(path);
    shard.lines.set(path, line);
    shard.added.push(`${path}\t${line}\n`);
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

  #read(text: string): Probe | undefined {
    try {
      const record = JSON.parse(text) as [Packed | null, Problem?, (string | null)?, (Sampling | null)?, number?];
      const [values, problem = null, damage = null, sampling = null, limitSeconds = 0] = record;
      if (problem?.fault === 'slow' && limitSeconds < this.#rules.limitSeconds) return undefined;
      if (damage !== null && JSON.stringify(sampling) !== JSON.stringify(this.#rules.sampling)) return undefined;
      return { facts: values === null ? null : unpack(values), problem, damage };
    } catch {
      return undefined; // torn by a kill
    }
  }

  /** Clips of one folder share a shard: a list of a few folders reads a few of them. */
  #shardOf(path: string): Shard {
    const folder = dirname(path);
    let name = this.#names.get(folder);
    if (name === undefined) {
      const number = createHash('sha1').update(folder).digest().readUInt16BE() % NUM_SHARDS;
      name = `${number.toString(16).padStart(2, '0')}.tsv`;
      this.#names.set(folder, name);
    }
    let shard = this.#shards.get(name);
    if (shard === undefined) {
      shard = { lines: readShard(join(this.folder, name)), added: [] };
      this.#shards.set(name, shard);
    }
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
  if (numLines - lines.size > Math.max(MIN_OLD_LINES, lines.size))
    writeWhole(file, [...lines].map(([path, line]) => `${path}\t${line}\n`).join(''));
  return lines;
}
