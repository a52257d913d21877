/** Clips that two lists share: by their path, as links to one file, or as files of the same bytes. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { showPath } from '../base/errors.ts';
import { plural } from '../base/words.ts';
import type { Code, Finding, Findings } from './check/findings.ts';
import type { FoundClip, ListReport } from './scan.ts';

export interface ComparedList extends Pick<ListReport, 'sha256' | 'numLines' | 'paths' | 'found'> {
  file: string;
}

/** What is read at most to compare clips of equal size: a second or so from a disk. */
const MAX_READ_BYTES = 64 << 20;

/** Adds what stands in `list` and in `other` as well to the findings; `why` says what is wrong with that. */
export async function findShared(
  list: ComparedList,
  other: ComparedList,
  why: string,
  findings: Findings,
): Promise<void> {
  const about = { severity: 'warning', list: list.file, other_list: other.file } as const;
  const add = (code: Code, line: number | null, message: string, more: Partial<Finding> = {}): void =>
    findings.add({ code, line, message, ...about, ...more });
  if (resolve(list.file) === resolve(other.file)) return add('leak', null, `is both lists: ${why}`);
  const otherName = showPath(other.file);
  // In the order of this list, of which there is mostly less than of the other.
  const { numPaths, first, numConflicts, firstConflict } = list.paths.findShared(other.paths, (pair) => {
    const [line, otherLine] = pair.lines;
    const [label, otherLabel] = pair.labels;
    const more = { label, other_line: otherLine };
    add('leak', line, `the same path is on line ${otherLine} of ${otherName}: ${why}. Keep it in one list.`, more);
    if (label === otherLabel) return;
    const what = `label ${label}, and ${otherLabel} on line ${otherLine} of ${otherName} for the same path`;
    add('label-conflict', line, `${what}. Keep the right one.`, more);
  });
  if (numPaths === 0 || first === null) return findSameFiles(list, other, why, findings);
  const all = numPaths === list.paths.length ? 'all ' : '';
  const counted = `${all}${numPaths} of its ${plural(list.numLines, 'clip')}`;
  const where = `the first on line ${first.lines[0]}, there on line ${first.lines[1]}`;
  findings.summarize({ code: 'leak', ...about }, `${counted} are in ${otherName} too, ${where}: ${why}`);
  if (firstConflict === null) return;
  const { lines, labels } = firstConflict;
  const labelled = `label ${labels[0]} on line ${lines[0]}, ${labels[1]} on line ${lines[1]} there`;
  const conflicts = `${plural(numConflicts, 'clip')} with another label than in ${otherName}: ${labelled}`;
  findings.summarize({ code: 'label-conflict', ...about }, conflicts);
}

/** Of the clips that were looked for. */
async function findSameFiles(list: ComparedList, other: ComparedList, why: string, findings: Findings): Promise<void> {
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
  if (first === undefined) return;
  const about = { code: 'leak', severity: 'warning', list: list.file, other_list: other.file } as const;
  const otherName = showPath(other.file);
  for (const [{ line, path }, { line: otherLine, path: twin }] of same) {
    const message = `the same content is in ${twin} on line ${otherLine} of ${otherName}: ${why}. Keep it in one list.`;
    findings.add({ ...about, line, path, message, other_line: otherLine });
  }
  const where = `the first on line ${first[0].line}, there ${first[1].path} on line ${first[1].line}`;
  const counted = `${plural(same.length, 'clip')} with the same content as one in ${otherName}`;
  findings.summarize(about, `${counted}, ${where}: ${why}`);
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
