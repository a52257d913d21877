/** Clips that two lists share: by their path, as links to one file, or as files of the same bytes. */
import { resolve } from 'node:path';
import { showPath } from '../base/errors.ts';
import { plural } from '../base/words.ts';
import { findSameContent } from './check/contents.ts';
import type { Code, Finding, Findings } from './check/findings.ts';
import { showLabels } from './line.ts';
import type { ListReport } from './scan.ts';

export interface ComparedList extends Pick<ListReport, 'sha256' | 'numLines' | 'paths' | 'found'> {
  file: string;
}

/** What is read at most to compare clips of equal size: a second or so from a disk. */
export const MAX_READ_BYTES = 64 << 20;

/** Adds what stands in `list` and in `other` as well to the findings; `why` says what is wrong with that. Contents are those
 * of the clips that were looked for. */
export async function findShared(
  list: ComparedList,
  other: ComparedList,
  why: string,
  findings: Findings,
): Promise<void> {
  findSharedPaths(list, other, why, findings);
  if (!isSameFile(list, other)) await findSameContent([other, list], findings, { why, maxBytes: MAX_READ_BYTES });
}

const isSameFile = (list: ComparedList, other: ComparedList): boolean => resolve(list.file) === resolve(other.file);

export function findSharedPaths(list: ComparedList, other: ComparedList, why: string, findings: Findings): void {
  const about = { severity: 'warning', list: list.file, other_list: other.file } as const;
  const add = (code: Code, line: number | null, message: string, more: Partial<Finding> = {}): void =>
    findings.add({ code, line, message, ...about, ...more });
  if (isSameFile(list, other)) {
    add('leak', null, `is both lists: ${why}`);
    return;
  }
  const otherName = showPath(other.file);
  const hasParts = list.paths.hasParts || other.paths.hasParts;
  // In the order of this list, of which there is mostly less than of the other.
  const { numPaths, first, numConflicts, firstConflict } = list.paths.findShared(other.paths, (pair, isSame) => {
    const [line, otherLine] = pair.lines;
    const [label, otherLabel] = pair.labels;
    const more = { label, other_line: otherLine };
    const same = hasParts ? 'a clip with the same moments' : 'the same path';
    add('leak', line, `${same} is on line ${otherLine} of ${otherName}: ${why}. Keep it in one list.`, more);
    if (label === otherLabel || !isSame) return;
    const what = `label ${showLabels(label)}, and ${showLabels(otherLabel)} on line ${otherLine} of ${otherName} for the same ${hasParts ? 'part' : 'path'}`;
    add('label-conflict', line, `${what}. Keep the right one.`, more);
  });
  if (numPaths === 0 || first === null) return;
  const all = numPaths === list.paths.length ? 'all ' : '';
  const counted = `${all}${numPaths} of its ${plural(list.numLines, 'clip')}`;
  const where = `the first on line ${first.lines[0]}, there on line ${first.lines[1]}`;
  const shared = hasParts ? `overlap clips of ${otherName}` : `are in ${otherName} too`;
  findings.summarize({ code: 'leak', ...about }, `${counted} ${shared}, ${where}: ${why}`);
  if (firstConflict === null) return;
  const { lines, labels } = firstConflict;
  const labelled = `label ${showLabels(labels[0])} on line ${lines[0]}, ${showLabels(labels[1])} on line ${lines[1]} there`;
  const conflicts = `${plural(numConflicts, 'clip')} with another label than in ${otherName}: ${labelled}`;
  findings.summarize({ code: 'label-conflict', ...about }, conflicts);
}
