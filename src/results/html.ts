/** HTML and words that the parts of the report share. */

import { findInterval, showInterval } from '../base/intervals.ts';
import type { Summary } from '../sweep/leaderboard.ts';

export const MAX_ROWS = 1000;
export const LABELS = { top1: 'top-1', top5: 'top-5' };

const ESCAPES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
export const escapeHtml = (value: unknown): string =>
  String(value).replace(/[&<>"']/g, (sign) => ESCAPES[sign] ?? sign);
export const percent = (value: number | null | undefined): string =>
  value == null ? '–' : `${(100 * value).toFixed(2)} %`;
export const day = (time: string): string => `${time.slice(0, 16).replace('T', ' ')} UTC`;
export const plural = (count: number, word: string): string => `${count} ${word}${count === 1 ? '' : 's'}`;

/** The 95 % interval of an accuracy on the list that the choice is made on. */
export function showChance(share: number | null | undefined, count: number | null): string {
  return share == null || count === null ? '' : `95 %: ${showInterval(findInterval(share, count))}`;
}

export function showSummary(summary: Summary | null): string {
  if (summary === null) return '–';
  return summary.spread === null
    ? percent(summary.mean)
    : `${percent(summary.mean)} ± ${(100 * summary.spread).toFixed(2)}`;
}

/** A key that a point does not set keeps the base's value. */
export function showValue(value: unknown): string {
  if (value === undefined) return '–';
  return typeof value === 'number' ? String(Number(value.toPrecision(4))) : String(value);
}
