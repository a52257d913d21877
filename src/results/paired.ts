/** Whether two runs differ: on the same videos by McNemar's test of their paired scores, else by their intervals. */

import { existsSync } from 'node:fs';
import { RuntimeFailure, UserError } from '../base/errors.ts';
import { type Accuracy, differ } from '../base/intervals.ts';
import { plural } from '../base/words.ts';
import type { Paired } from '../runtime/pair-reply.ts';
import { withSession } from '../runtime/with-session.ts';

/** What is asked of a run. */
export interface Judged {
  run: string;
  result: Accuracy & { num_videos: number };
  list: { sha256: string } | null;
  /** scores.npz of that result. */
  scores: string;
}

/** The best run beside another one, on the videos that both have. */
export interface Pair {
  runs: [string, string];
  /** null: not paired; `reason` says why. */
  paired: (Paired & { reason: null }) | null;
  reason: string | null;
  /** p, as it counts where so many pairs were looked at (Holm, Scandinavian Journal of Statistics 6, 1979). */
  p_adjusted: number | null;
  /** At 5 %. */
  differs: boolean;
}

const LEVEL = 0.05;

/** Returns the best run by top-1 beside each other one; runs with several labels a video are left out. */
export async function pairRuns(runs: Judged[]): Promise<Pair[]> {
  const known = runs.filter(({ result: { top1, map } }) => top1 !== null && map == null);
  const [best, ...others] = known.toSorted((a, b) => (b.result.top1 ?? 0) - (a.result.top1 ?? 0));
  if (best === undefined || others.length === 0) return [];
  const replies = await askScores(best, others);
  const adjusted = adjust(replies.map((reply) => (reply.reason === null ? reply.p : null)));
  return others.map((other, index) => {
    const reply = replies[index];
    const p = adjusted[index] ?? null;
    const runs: [string, string] = [best.run, other.run];
    if (reply === undefined || reply.reason !== null || p === null)
      return {
        runs,
        paired: null,
        reason: reply?.reason ?? null,
        p_adjusted: null,
        differs: differByIntervals(best, other),
      };
    return { runs, paired: reply, reason: null, p_adjusted: p, differs: p < LEVEL };
  });
}

function differByIntervals({ result: a }: Judged, { result: b }: Judged): boolean {
  return differ(a.top1 ?? 0, a.num_videos, b.top1 ?? 0, b.num_videos);
}

async function askScores(best: Judged, others: Judged[]): Promise<Paired[]> {
  const lacking = (reason: string): Paired => ({ reason });
  if (!existsSync(best.scores)) return others.map(() => lacking(`${best.scores} is missing`));
  if (!others.some(({ scores }) => existsSync(scores)))
    return others.map(({ scores }) => lacking(`${scores} is missing`));
  try {
    return await withSession({}, async (session) => {
      const replies: Paired[] = [];
      for (const { scores, list } of others) {
        const isSameList = list !== null && list.sha256 === best.list?.sha256;
        if (!existsSync(scores)) replies.push(lacking(`${scores} is missing`));
        else replies.push(await session.pair(best.scores, scores, isSameList));
      }
      return replies;
    });
  } catch (error) {
    if (!(error instanceof UserError) && !(error instanceof RuntimeFailure)) throw error;
    return others.map(() => lacking(error.message)); // metrics and settings can be told without Python
  }
}

/** Returns the p-values as they count together: the k-th smallest of m times m - k + 1, never below the one before. */
export function adjust(values: (number | null)[]): (number | null)[] {
  const known = values.flatMap((p, index) => (p === null ? [] : [{ p, index }])).toSorted((a, b) => a.p - b.p);
  const adjusted: (number | null)[] = values.map(() => null);
  let least = 0;
  for (const [place, { p, index }] of known.entries()) {
    least = Math.min(1, Math.max(least, p * (known.length - place)));
    adjusted[index] = least;
  }
  return adjusted;
}

/** Returns whether the lists of a pair hold the same videos with the same labels, whatever their order. */
export const haveSameVideos = ({ paired }: Pair): boolean =>
  paired !== null && paired.num_shared === paired.num_first && paired.num_shared === paired.num_other;

/** Returns what is said of each pair. */
export function tellPairs(pairs: Pair[], runs: Judged[]): string[] {
  const numTests = pairs.filter(({ paired }) => paired !== null).length;
  return pairs.flatMap((pair) => {
    const [best, other] = pair.runs;
    const { paired, p_adjusted: p } = pair;
    const verdict = pair.differs ? 'differ' : 'cannot be told apart';
    if (paired !== null && paired.num_shared > 0) {
      const holm = numTests > 1 ? `, ${showP(p ?? 1)} as one of ${numTests} comparisons (Holm)` : '';
      const some = haveSameVideos(pair) ? '' : ' that both have';
      return [
        `${best} and ${other} ${verdict} on the ${plural(paired.num_shared, 'video')}${some}: ${paired.only_first} are right ` +
          `in the first alone, ${paired.only_other} in the other alone; p = ${showP(paired.p)}${holm} (McNemar, exact).`,
      ];
    }
    const count = runs.find(({ run }) => run === other)?.result.num_videos ?? 0;
    const why = pair.reason === null ? '' : ` Their videos are not paired: ${pair.reason}.`;
    if (pair.differs && why === '') return [];
    return [`${best} and ${other} ${verdict} on ${plural(count, 'video')} (top-1, 95 %).${why}`];
  });
}

/** Returns the interval of a p-value below which nobody looks closer. */
const showP = (p: number): string => (p < 1e-4 ? '< 0.0001' : p.toPrecision(2));
