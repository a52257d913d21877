/** How the videos of a list are distributed, and what the sampling does with them. */
import { formatTable } from '../../base/format.ts';
import { plural } from '../../base/words.ts';
import type { Facts, Sampling } from '../../runtime/probe-replies.ts';

/** Returns frames from the first to the last of a clip. */
export const countSpan = ({ num_frames, stride }: Sampling): number =>
  stride === null ? num_frames : stride * (num_frames - 1) + 1;

const MEASURES = {
  frames: ({ num_frames }: Facts) => num_frames,
  seconds: ({ duration_seconds }: Facts) => duration_seconds,
  rate: ({ rate }: Facts) => rate,
} as const;
const KINDS = {
  size: ({ width, height }: Facts) => `${width}x${height}`,
  codec: ({ codec }: Facts) => codec,
  container: ({ container }: Facts) => container,
} as const;
const NUM_SHOWN = 5;

type Measure = keyof typeof MEASURES;
type Kind = keyof typeof KINDS;
const measures = Object.keys(MEASURES) as Measure[];
const kinds = Object.keys(KINDS) as Kind[];

/** The least, the quarters and the most of a measure. */
export interface Spread {
  least: number;
  quarter: number;
  half: number;
  three_quarters: number;
  most: number;
}

export interface SampledClips {
  num_frames: number;
  /** null: a frame of each segment. */
  stride: number | null;
  /** null: of a training. */
  num_views: number | null;
  /** Frames from the first to the last of a clip. */
  span: number;
  /** Videos with fewer frames: some are repeated. */
  num_short: number;
  /** Half of the videos have so many places for a clip to begin, or more. */
  starts: number;
  /** Half of the videos are covered so far by a clip, or less: 0..1. */
  covered: number;
}

export interface Distribution {
  num_videos: number;
  measures: Record<Measure, Spread> | null;
  kinds: Record<Kind, [string, number][]>;
  num_rotated: number;
  num_variable_rate: number;
  sampling: SampledClips | null;
}

export class Tally {
  readonly #values: Record<Measure, number[]> = { frames: [], seconds: [], rate: [] };
  readonly #counts: Record<Kind, Map<string, number>> = { size: new Map(), codec: new Map(), container: new Map() };
  #numRotated = 0;
  #numVariable = 0;

  add(facts: Facts): void {
    for (const name of measures) this.#values[name].push(MEASURES[name](facts));
    for (const name of kinds) {
      const kind = KINDS[name](facts);
      this.#counts[name].set(kind, (this.#counts[name].get(kind) ?? 0) + 1);
    }
    this.#numRotated += Number(facts.rotation !== 0 || facts.mirrored);
    this.#numVariable += Number(facts.is_variable_rate);
  }

  describe(sampling: Sampling | null): Distribution {
    const sorted = Object.fromEntries(measures.map((name) => [name, this.#values[name].toSorted((a, b) => a - b)]));
    const numVideos = this.#values.frames.length;
    const spreads = Object.fromEntries(measures.map((name) => [name, spread(sorted[name] ?? [])]));
    const count = ([name, values]: [string, Map<string, number>]) => [
      name,
      [...values].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)),
    ];
    return {
      num_videos: numVideos,
      measures: numVideos === 0 ? null : (spreads as Record<Measure, Spread>),
      kinds: Object.fromEntries(Object.entries(this.#counts).map(count)) as Distribution['kinds'],
      num_rotated: this.#numRotated,
      num_variable_rate: this.#numVariable,
      sampling: sampling === null || numVideos === 0 ? null : describeSampling(sampling, sorted.frames ?? []),
    };
  }
}

/** Of ascending values, of which there is one at least. */
function spread(values: number[]): Spread {
  const at = (share: number): number => values[Math.round(share * (values.length - 1))] ?? Number.NaN;
  return { least: at(0), quarter: at(0.25), half: at(0.5), three_quarters: at(0.75), most: at(1) };
}

function describeSampling(sampling: Sampling, frames: number[]): SampledClips {
  const { num_frames, stride, num_views } = sampling;
  const span = countSpan(sampling);
  const { half } = spread(frames);
  const covers = frames.map((count) => (stride === null ? 1 : Math.min(1, span / count))).toSorted((a, b) => a - b);
  return {
    ...{ num_frames, stride, num_views, span },
    num_short: frames.filter((count) => count < span).length,
    starts: stride === null ? Math.max(1, Math.floor(half / num_frames)) : Math.max(1, half - span + 1),
    covered: spread(covers).half,
  };
}

/** Returns what people read of it. */
export function describeDistribution({ measures: spreads, kinds: counts, ...about }: Distribution): string {
  const { num_videos: total, num_rotated, num_variable_rate, sampling } = about;
  if (spreads === null) return 'no video could be opened';
  const short = (value: number): string => String(Number(value.toFixed(value < 100 ? 2 : 0)));
  const rows = measures.map((name) => [name, ...Object.values(spreads[name]).map(short)]);
  const shares = kinds.map((name) => [name, describeShares(counts[name], total)]);
  const odd = [
    num_rotated > 0 ? `${num_rotated} turned or mirrored` : '',
    num_variable_rate > 0 ? `${num_variable_rate} of a variable rate` : '',
  ].filter(Boolean);
  return [
    formatTable([['', 'least', 'quarter', 'half', 'three quarters', 'most'], ...rows]),
    formatTable([...shares, ...(odd.length > 0 ? [['besides', odd.join(', ')]] : [])]),
    ...(sampling === null ? [] : [`sampling  ${describeClips(sampling, total, spreads)}`]),
  ].join('\n');
}

function describeShares(counts: [string, number][], total: number): string {
  const share = (count: number): string => `${((100 * count) / total).toFixed(count === total ? 0 : 1)} %`;
  const shown = counts.slice(0, NUM_SHOWN).map(([name, count]) => `${name} ${share(count)}`);
  const rest = counts.slice(NUM_SHOWN);
  const others = rest.reduce((sum, [, count]) => sum + count, 0);
  return [...shown, ...(rest.length > 0 ? [`${rest.length} others ${share(others)}`] : [])].join(', ');
}

function describeClips(clips: SampledClips, total: number, { frames, rate }: Record<Measure, Spread>): string {
  const { num_frames, stride, num_views, span, num_short } = clips;
  const seconds = (count: number): string => (rate.half > 0 ? ` (${(count / rate.half).toFixed(1)} s)` : '');
  const repeated =
    num_short === 0
      ? ''
      : `; ${num_short} of ${plural(total, 'video')} ${num_short === 1 ? 'is' : 'are'} shorter, and frames repeat there`;
  const whose = num_views === null ? 'a training clip' : `each of ${plural(num_views, 'view')}`;
  if (stride === null) {
    const part = Math.floor(frames.half / num_frames);
    return `${whose} takes a frame of each of ${num_frames} equal parts, about ${part} frames${seconds(part)} each${repeated}`;
  }
  const where =
    num_views === null
      ? `beginning at any of ${clips.starts} places in the median video`
      : `the first to the last at equal distances`;
  return `${whose} takes ${num_frames} frames every ${stride}, ${span} frames${seconds(span)}, ${where}: ${Math.round(100 * clips.covered)} % of it${repeated}`;
}
