/** Clips that two lists share: by their path, as links to one file, or as files of the same bytes. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { showPath } from '../base/errors.ts';
import { plural } from '../base/words.ts';
import type { FoundClip, ListReport } from './scan.ts';

export interface ComparedList extends Pick<ListReport, 'sha256' | 'numLines' | 'paths' | 'found'> {
  file: string;
}

/** What is read at most to compare clips of equal size: a second or so from a disk. */
const MAX_READ_BYTES = 64 << 20;

/** Returns warnings of what stands in `list` and in `other` as well; `why` says what is wrong with that. */
export async function describeShared(list: ComparedList, other: ComparedList, why: string): Promise<string[]> {
  const [name, otherName] = [showPath(list.file), showPath(other.file)];
  if (resolve(list.file) === resolve(other.file)) return [`${name}  is both lists: ${why} (leak)`];
  // In the order of this list, of which there is mostly less than of the other.
  const { numPaths, first, numConflicts, firstConflict } = list.paths.findShared(other.paths);
  if (numPaths === 0 || first === null) return describeSameFiles(list, other, why);
  const all = numPaths === list.paths.length ? 'all ' : '';
  const counted = `${all}${numPaths} of its ${plural(list.numLines, 'clip')}`;
  const where = `the first on line ${first.lines[0]}, there on line ${first.lines[1]}`;
  const warnings = [`${name}  ${counted} are in ${otherName} too, ${where}: ${why} (leak)`];
  if (firstConflict === null) return warnings;
  const { lines, labels } = firstConflict;
  const labelled = `label ${labels[0]} on line ${lines[0]}, ${labels[1]} on line ${lines[1]} there`;
  warnings.push(
    `${name}  ${plural(numConflicts, 'clip')} with another label than in ${otherName}: ${labelled} (label-conflict)`,
  );
  return warnings;
}

/** Of the clips that were looked for. */
async function describeSameFiles(list: ComparedList, other: ComparedList, why: string): Promise<string[]> {
  const bySize = new Map<number, FoundClip[]>();
  for (const clip of other.found) bySize.set(clip.size, [...(bySize.get(clip.size) ?? []), clip]);
  const same: [FoundClip, FoundClip][] = [];
  const digests = new Map<string, string>();
  let left = MAX_READ_BYTES;
  for (const clip of list.found) {
    for (const twin of bySize.get(clip.size) ?? []) {
      if (clip.id !== twin.id) {
        const unread = [clip, twin].filter(({ id }) => !digests.has(id));
        left -= unread.length * clip.size;
        if (left < 0) break;
        for (const { id, path } of unread) digests.set(id, await hashFile(path));
        if (digests.get(clip.id) !== digests.get(twin.id)) continue;
      }
      same.push([clip, twin]);
      break;
    }
  }
  const [first] = same;
  if (first === undefined) return [];
  const where = `the first on line ${first[0].line}, there ${first[1].path} on line ${first[1].line}`;
  return [
    `${showPath(list.file)}  ${plural(same.length, 'clip')} with the same content as one in ${showPath(other.file)}, ${where}: ${why} (leak)`,
  ];
}

/** A file that cannot be read is like no other. */
async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    await pipeline(createReadStream(path), hash);
    return hash.digest('hex');
  } catch {
    return path;
  }
}
