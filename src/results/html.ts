/** Words and numbers that the parts of the report's page share. */

import { formatMean, percent as formatShare, formatValue } from '../base/format.ts';
import { findInterval, METRICS, showInterval } from '../base/intervals.ts';
import type { Summary } from '../sweep/leaderboard.ts';

export const MAX_ROWS = 1000;
export const LABELS = METRICS;

/** What is not known is a dash of the page's own. */
export const percent = (value: number | null | undefined): string => formatShare(value, '–');
export const showSummary = (summary: Summary | null): string => formatMean(summary, '–');
export const showValue = (value: unknown): string => formatValue(value, '–');
export const day = (time: string): string => `${time.slice(0, 16).replace('T', ' ')} UTC`;
/** The 95 % interval of an accuracy on the list that the choice is made on. */
export function showChance(share: number | null | undefined, count: number | null): string {
  return share == null || count === null ? '' : `95 %: ${showInterval(findInterval(share, count))}`;
}
