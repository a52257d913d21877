/** What is found in lists of clips: every check adds to one collector, and `check`, training and sweeps tell it from there. */

import { showPath } from '../../base/errors.ts';
import type { FINDING_CODES, SEVERITIES } from '../../base/events/codes.ts';
import type { EventOf } from '../../base/events/event.ts';
import { plural } from '../../base/words.ts';
import { listLabels } from '../line.ts';

export type Code = (typeof FINDING_CODES)[number];
export type Severity = (typeof SEVERITIES)[number];

/** One thing found. `line` is null where it is of the whole list. */
export type Finding = Omit<EventOf<'finding'>, 'kind' | 'step'>;

/** Findings of one kind in one list, or between two: the first few and how many there are. */
export interface Group {
  code: Code;
  severity: Severity;
  list: string;
  otherList: string | null;
  count: number;
  first: Finding[];
  /** What says all of them in a line or two. */
  summaries: string[];
}

/** Kept of a group: what is told of a million is no longer than what is told of these. */
const NUM_KEPT = 5;
/** Errors of a list that a refusal names one by one. */
const MAX_SHOWN = 50;

export class Findings {
  readonly groups: Group[] = [];
  readonly #byKey = new Map<string, Group>();
  readonly #errors = new Map<string, { count: number; shown: Finding[] }>();
  readonly #listener: ((finding: Finding) => void) | undefined;

  /** `listener` gets each finding as it is found; none is kept for it. */
  constructor(listener?: (finding: Finding) => void) {
    this.#listener = listener;
  }

  /** Each finding is told, and not the first few of a kind. */
  get isTold(): boolean {
    return this.#listener !== undefined;
  }

  add(given: Finding): void {
    const finding = spellLabels(given);
    const group = this.#groupOf(finding);
    group.count += 1;
    if (group.first.length < NUM_KEPT) group.first.push(finding);
    if (finding.severity === 'error') {
      const errors = this.#errors.get(finding.list) ?? { count: 0, shown: [] };
      this.#errors.set(finding.list, errors);
      errors.count += 1;
      if (errors.shown.length < MAX_SHOWN) errors.shown.push(finding);
    }
    this.#listener?.(finding);
  }

  /** Gives the group of such a finding a line that stands for it, or for those of one kind in it. */
  summarize(finding: Pick<Finding, 'code' | 'severity' | 'list' | 'other_list'>, summary: string): void {
    this.#groupOf(finding).summaries.push(summary);
  }

  count(severity: Severity): number {
    return this.groups.reduce((sum, group) => sum + (group.severity === severity ? group.count : 0), 0);
  }

  /** Returns how many there are of each code. */
  countCodes(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const { code, count } of this.groups) counts[code] = (counts[code] ?? 0) + count;
    return counts;
  }

  /** Returns the errors as a refusal names them: the first fifty of each list. */
  describeErrors(): string[] {
    return [...this.#errors].flatMap(([list, { count, shown }]) => {
      const more = count - shown.length;
      const told = shown.map(describeFinding);
      return more > 0 ? [...told, `${showPath(list)}  and ${more} more problems.`] : told;
    });
  }

  /** Returns what is to be said of all that is no error: a line for a group that has one, else its first findings. */
  describeWarnings(): string[] {
    return this.groups.filter(({ severity }) => severity === 'warning').flatMap(describeGroup);
  }

  #groupOf({ code, severity, list, other_list }: Pick<Finding, 'code' | 'severity' | 'list' | 'other_list'>): Group {
    const otherList = other_list === undefined || other_list === list ? null : other_list;
    const key = JSON.stringify([code, severity, list, otherList]);
    const known = this.#byKey.get(key);
    if (known !== undefined) return known;
    const group: Group = { code, severity, list, otherList, count: 0, first: [], summaries: [] };
    this.#byKey.set(key, group);
    this.groups.push(group);
    return group;
  }
}

/** Several labels of a clip are told as they are listed. */
function spellLabels({ label, ...finding }: Finding): Finding {
  if (label === undefined) return finding;
  const labels = listLabels(label);
  return labels.length === 1 ? { ...finding, label } : { ...finding, labels };
}

/** Returns `where  what was found. what is allowed. what to do.` */
export function describeFinding({ list, line, message }: Finding): string {
  return `${showPath(list)}${line === null ? '' : `:${line}`}  ${message}`;
}

function describeGroup({ code, list, count, first, summaries }: Group): string[] {
  if (summaries.length > 0) return summaries.map((summary) => `${showPath(list)}  ${summary} (${code})`);
  const more = count - first.length;
  const told = first.map((finding) => `${describeFinding(finding)} (${code})`);
  return more > 0 ? [...told, `${showPath(list)}  and ${plural(more, 'more finding')} of this kind (${code})`] : told;
}
