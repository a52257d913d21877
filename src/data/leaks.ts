/** Clips that two lists share: by their path, as links to one file, or as files of the same bytes. */
import { resolve } from 'node:path';
import { showPath } from '../base/errors.ts';
import { plural } from '../base/words.ts';
import { findSameContent } from './check/contents.ts';
import type { Code, Finding, Findings } from './check/findings.ts';
import { pathAt, readPaths } from './check/listed-paths.ts';
import { showLabels } from './line.ts';
import type { ListReport } from './scan.ts';
import type { Pair } from './seen-paths.ts';

export interface ComparedList extends Pick<ListReport, 'sha256' | 'numLines' | 'paths' | 'found' | 'root'> {
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
  const pairs: { pair: Pair; isSame: boolean }[] = [];
  const shared = list.paths.findShared(other.paths, (pair, isSame) => pairs.push({ pair, isSame }));
  const { numPaths, first, numConflicts, firstConflict, sources } = shared;
  const found = [...pairs.map(({ pair }) => pair), ...sources];
  const pathOf = readPaths(list, findings.isTold ? found.map(({ lines }) => lines[0]) : []);
  for (const { pair, isSame } of pairs) {
    const [line, otherLine] = pair.lines;
    const [label, otherLabel] = pair.labels;
    const more = { ...pathAt(pathOf, line), label, other_line: otherLine };
    const same = hasParts ? 'a clip with the same moments' : 'the same path';
    add('leak', line, `${same} is on line ${otherLine} of ${otherName}: ${why}. Keep it in one list.`, more);
    if (label === otherLabel || !isSame) continue;
    const what = `label ${showLabels(label)}, and ${showLabels(otherLabel)} on line ${otherLine} of ${otherName} for the same ${hasParts ? 'part' : 'path'}`;
    add('label-conflict', line, `${what}. Keep the right one.`, more);
  }
  tellSources(sources, pathOf, { why, otherName, add, findings, about });
  if (numPaths === 0 || first === null) return;
  const all = numPaths === list.paths.length ? 'all ' : '';
  const counted = `${all}${numPaths} of its ${plural(list.numLines, 'clip')}`;
  const where = `the first on line ${first.lines[0]}, there on line ${first.lines[1]}`;
  const what = hasParts ? `overlap clips of ${otherName}` : `are in ${otherName} too`;
  findings.summarize({ code: 'leak', ...about }, `${counted} ${what}, ${where}: ${why}`);
  if (firstConflict === null) return;
  const { lines, labels } = firstConflict;
  const labelled = `label ${showLabels(labels[0])} on line ${lines[0]}, ${showLabels(labels[1])} on line ${lines[1]} there`;
  const conflicts = `${plural(numConflicts, 'clip')} with another label than in ${otherName}: ${labelled}`;
  findings.summarize({ code: 'label-conflict', ...about }, conflicts);
}

interface Telling {
  why: string;
  otherName: string;
  add: (code: Code, line: number, message: string, more: Partial<Finding>) => void;
  findings: Findings;
  about: Pick<Finding, 'severity' | 'list' | 'other_list'>;
}

/** Parts of one video look alike, at whatever moments: that it stands on both sides is the commonest leak there is. */
function tellSources(sources: Pair[], pathOf: Map<number, string>, telling: Telling): void {
  const { why, otherName, add, findings, about } = telling;
  for (const { lines, labels } of sources) {
    const more = { ...pathAt(pathOf, lines[0]), label: labels[0], other_line: lines[1] };
    const what = `other moments of its video are on line ${lines[1]} of ${otherName}: they look alike, and ${why}`;
    add('same-source', lines[0], `${what}. Keep a video in one list, as \`coldframe lists split\` does.`, more);
  }
  const [first] = sources;
  if (first === undefined) return;
  const where = `the first on line ${first.lines[0]}, there on line ${first.lines[1]}`;
  const what = `${plural(sources.length, 'video')} with other moments in ${otherName}, ${where}: they look alike, and ${why}`;
  findings.summarize({ code: 'same-source', ...about }, what);
}
