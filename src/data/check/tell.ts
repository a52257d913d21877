/** What `check` prints for people: the lists, then what was found in groups, the gravest first. */
import { join } from 'node:path';
import { showPath } from '../../base/errors.ts';
import { SEVERITIES } from '../../base/events/codes.ts';
import { formatTable } from '../../base/format.ts';
import { plural } from '../../base/words.ts';
import type { ComparedList } from '../leaks.ts';
import type { Cleaned } from './clean.ts';
import { describeFinding, type Findings, type Group } from './findings.ts';

export function describeChecked(
  sides: Pick<ComparedList, 'file' | 'numLines' | 'sha256'>[],
  findings: Findings,
): string {
  const lists = sides.map(({ file, numLines, sha256 }) => [
    showPath(file),
    plural(numLines, 'clip'),
    sha256 === '' ? '' : `SHA-256 ${sha256.slice(0, 16)}...`,
  ]);
  const groups = SEVERITIES.flatMap((severity) => findings.groups.filter((group) => group.severity === severity));
  return [formatTable(lists), ...groups.map(describeGroup)].join('\n\n');
}

function describeGroup(group: Group): string {
  const { code, severity, list, count, first, summaries } = group;
  const between = group.otherList === null ? '' : `, with ${showPath(group.otherList)}`;
  const head = `${severity} ${code}: ${count} in ${showPath(list)}${between}`;
  const more = count - first.length;
  return [
    head,
    ...summaries.map((summary) => `  ${summary}`),
    ...first.map((finding) => `  ${describeFinding(finding)}`),
    ...(more > 0 ? [`  and ${more} more, all of them with --json`] : []),
  ].join('\n');
}

/** Where the clean lists lie, and what is not in them. */
export function describeCleaned(folder: string, lists: Cleaned[]): string {
  const rows = lists.map(({ clean, num_lines, num_left_out, sha256 }) => [
    showPath(clean),
    plural(num_lines, 'clip'),
    `${num_left_out} left out`,
    `SHA-256 ${sha256.slice(0, 16)}...`,
  ]);
  const beside = `${showPath(join(folder, 'quarantine.tsv'))} has each line that is left out with its reason, per-class.tsv the clips of each class.`;
  return `${formatTable(rows)}\n${beside}`;
}
