/** What was found in videos, kept for the next time as long as they are the same. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PROJECT } from '../../base/paths.ts';
import type { Facts, Probe, Problem, Sampling } from '../../runtime/probe-replies.ts';
import { nameClip, type Part } from '../line.ts';
import { findKeptFolder, KeptTexts, type SeenVideo } from './kept.ts';

/** A clip to look into: a file, or a part of one. */
export interface SeenClip extends SeenVideo {
  part?: Part | undefined;
}

/** What the result of a probe depends on besides the file. */
export interface ProbeRules {
  reader: string;
  /** null: any frame may be asked for. */
  sampling: Sampling | null;
  limitSeconds: number;
}

/** To be raised when what is found in the same file, or how it is written here, changes. */
const FORMAT = 2;

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
  const [decoder = 'av'] = /^av==.*$/m.exec(readFileSync(join(PROJECT, 'requirements.txt'), 'utf8')) ?? [];
  return findKeptFolder('probes', `${FORMAT}-${decoder.replace('==', '-')}-${reader}`);
}

export class ProbeCache {
  readonly #kept: KeptTexts;
  readonly #rules: ProbeRules;

  /** `folder`: else the one that all checks share. */
  constructor(rules: ProbeRules, folder: string = findProbeFolder(rules.reader)) {
    this.#kept = new KeptTexts(folder);
    this.#rules = rules;
  }

  get folder(): string {
    return this.#kept.folder;
  }

  /** Why nothing more is kept. */
  get problem(): string | undefined {
    return this.#kept.problem;
  }

  /** Returns what is known of a clip as it is now. */
  find(clip: SeenClip): Probe | undefined {
    const text = this.#kept.find(nameClip(clip.path, clip.part), clip);
    return text === undefined ? undefined : this.#read(text);
  }

  /** Keeps what was found, but for what is no matter of the file alone: a disk that did not answer, a process that died. */
  add(clip: SeenClip, { facts, problem, damage }: Probe): void {
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
    this.#kept.add(nameClip(clip.path, clip.part), clip, JSON.stringify(record));
  }

  /** Takes over what a cache of the same rules has kept in another folder. */
  absorb(folder: string): void {
    this.#kept.absorb(folder);
  }

  /** Brings what was added to the disk. */
  flush(): void {
    this.#kept.flush();
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
}
