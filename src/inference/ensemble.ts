/** `ensemble`: averages the scores of several evaluations of one list, as the paper's tables do for several views. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import type { Report } from '../base/printer.ts';
import { findIntervals } from '../run/evaluation.ts';
import { withSession } from '../runtime/with-session.ts';

interface StoredResult {
  folder: string;
  list: { sha256: string } | null;
  classes: string[] | null;
}

/** Prints the accuracy of each evaluation and of their mean. Raises UserError when they are not of the same list. */
export async function averageScores(paths: string[], report: Report): Promise<void> {
  const stored = paths.map(readResult);
  refuseDifferentLists(stored);
  const files = stored.map(({ folder }) => join(folder, 'scores.npz'));
  const { members, mean, num_videos } = await withSession({}, (session) => session.ensemble(files));
  const pick = ({ top1, top5, map }: (typeof members)[number]) => ({
    ...{ top1, top5, ...findIntervals({ top1, top5, map, num_videos }) },
    ...(map === undefined ? {} : { map }),
  });
  const each = members.map((member, i) => ({ path: stored[i]?.folder ?? '', ...pick(member) }));
  report.event({ kind: 'averaged', members: each, ...pick(mean), num_videos });
}

function refuseDifferentLists(stored: StoredResult[]): void {
  const [first, ...others] = stored;
  const problems = others.flatMap(({ folder, list, classes }) => {
    if (list?.sha256 !== first?.list?.sha256) return [`${folder}  is of another list than ${first?.folder}.`];
    const sameClasses = JSON.stringify(classes) === JSON.stringify(first?.classes);
    return sameClasses ? [] : [`${folder}  has other class names than ${first?.folder}.`];
  });
  if (problems.length > 0) throw new UserError([...problems, 'Only evaluations of the same list can be averaged.']);
}

function readResult(path: string): StoredResult {
  const folder = resolve(path.endsWith('.npz') ? dirname(path) : path);
  const file = join(folder, 'result.json');
  if (!existsSync(file)) {
    throw new UserError(`${path}  holds no result.json. Give a folder that \`evaluate\` wrote, below RUN/evaluations.`);
  }
  return { ...(JSON.parse(readFileSync(file, 'utf8')) as StoredResult), folder };
}
