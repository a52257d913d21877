/** How fast a build goes, and what it waits for. */

export interface Pace {
  /** null: nothing was computed. */
  clips_per_second: number | null;
  waited_seconds: Record<string, number>;
}

const WAITS: Record<string, string> = { decode: 'videos', compute: 'passes', write: 'the disk' };

/** Returns `12.3 clips/s, waits for videos 80 %, passes 20 %`: shares of the time that it waited at all. */
export function describePace({ clips_per_second: rate, waited_seconds: waited }: Pace): string | undefined {
  if (rate === null) return undefined;
  const total = Object.values(waited).reduce((sum, seconds) => sum + seconds, 0);
  const shares = Object.entries(waited)
    .map(([what, seconds]) => ({ what: WAITS[what] ?? what, percent: Math.round((100 * seconds) / (total || 1)) }))
    .filter(({ percent }) => percent > 0)
    .sort((a, b) => b.percent - a.percent);
  const waits = shares.map(({ what, percent }) => `${what} ${percent} %`).join(', ');
  return `${rate.toFixed(1)} clips/s${waits === '' ? '' : `, waits for ${waits}`}`;
}
