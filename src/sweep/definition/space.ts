/** The points of a space: a grid or random draws. Pure: the same space and seed give the same points. */

import type { Params, Value } from '../../config/schema.ts';
import type { Point, Range, SpaceKey } from './types.ts';

/** More points than anyone can train are a slip. */
export const MAX_POINTS = 100_000;

/** A space with few points left to find is drawn from so often before it counts as used up. */
const MAX_REDRAWS = 100;

export const namePoint = (index: number): string => `p${String(index).padStart(4, '0')}`;

/** Returns a text that is equal for equal points. */
export const identifyParams = (params: Params): string =>
  JSON.stringify(Object.entries(params).sort(([a], [b]) => (a < b ? -1 : 1)));

/** Returns whether a key is varied where these keys are. */
export function isActive({ when }: SpaceKey, params: Params): boolean {
  return Object.entries(when).every(([key, values]) => key in params && values.includes(params[key] ?? null));
}

/** Returns every combination of the listed values, the first key slowest; at most one more than MAX_POINTS. */
export function makeGrid(space: SpaceKey[]): Point[] {
  const points: Point[] = [];
  const visit = (depth: number, params: Params): void => {
    const part = space[depth];
    if (points.length > MAX_POINTS) return;
    if (part === undefined) points.push({ name: namePoint(points.length + 1), params });
    else if (!isActive(part, params)) visit(depth + 1, params);
    else for (const value of part.values ?? []) visit(depth + 1, { ...params, [part.key]: value });
  };
  visit(0, {});
  return points;
}

/** Returns up to `num` different points; fewer when the space has no more. A longer draw begins as a shorter one. */
export function drawRandom(space: SpaceKey[], num: number, seed: number): Point[] {
  const points: Point[] = [];
  const seen = new Set<string>();
  for (let index = 1; index <= num; index++) {
    for (let attempt = 0; attempt < MAX_REDRAWS; attempt++) {
      const params = drawPoint(space, `${seed}/${index}/${attempt}`);
      const text = JSON.stringify(params);
      if (seen.has(text)) continue;
      seen.add(text);
      points.push({ name: namePoint(points.length + 1), params });
      break;
    }
  }
  return points;
}

/** Every key has a stream of its own: another key in the space changes none of its draws. */
function drawPoint(space: SpaceKey[], stream: string): Params {
  const params: Params = {};
  for (const part of space) {
    if (isActive(part, params)) params[part.key] = drawValue(part, uniform(`${stream}/${part.key}`));
  }
  return params;
}

/** Returns a number in 0..1, 1 excluded, that is a function of the text: two FNV-1a hashes, mixed as MurmurHash3 ends. */
function uniform(text: string): number {
  let [high, low] = [0x811c9dc5, 0x01000193];
  for (let index = 0; index < text.length; index++) {
    high = Math.imul(high ^ text.charCodeAt(index), 0x01000193);
    low = Math.imul(low ^ text.charCodeAt(index), 0x01000193) + 1;
  }
  return ((mix(high) >>> 5) * 2 ** 26 + (mix(low) >>> 6)) / 2 ** 53;
}

function mix(hash: number): number {
  const once = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  const twice = Math.imul(once ^ (once >>> 13), 0xc2b2ae35);
  return twice ^ (twice >>> 16);
}

function drawValue({ values, range }: SpaceKey, u: number): Value {
  if (values !== null) return values[Math.floor(u * values.length)] ?? null;
  return range === null ? null : drawNumber(range, u);
}

function drawNumber({ low, high, log, step, is_integer }: Range, u: number): number {
  if (log) {
    // Whole numbers own the half on either side of them.
    const [from, to] = is_integer ? [low - 0.5, high + 0.5] : [low, high];
    const drawn = from * (to / from) ** u;
    return clamp(is_integer ? Math.round(drawn) : roundTo(drawn, 4), low, high);
  }
  if (step !== null) return roundTo(low + step * Math.floor(u * countSteps(low, high, step)), 12);
  return clamp(roundTo(low + (high - low) * u, 4), low, high);
}

/** Returns how many numbers there are from low to high; a last step that misses `high` by rounding counts. */
export function countSteps(low: number, high: number, step: number): number {
  return Math.floor((high - low) / step + 1e-9) + 1;
}

/** Four digits are all that a drawn number means, and they can be read. */
export function roundTo(value: number, digits: number): number {
  return Number(value.toPrecision(digits));
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}

/** Returns the numbers of a grid: every step, or `num` of them evenly in the number or its logarithm. */
export function listNumbers({ low, high, log, step, is_integer }: Range, num: number | null): number[] {
  const count = num ?? countSteps(low, high, step ?? 1);
  const numbers = Array.from({ length: count }, (_, index) => {
    if (num === null) return roundTo(low + index * (step ?? 1), 12);
    if (index === 0 || index === count - 1) return index === 0 ? low : high;
    const share = index / (count - 1);
    const number = log ? low * (high / low) ** share : low + (high - low) * share;
    return is_integer ? Math.round(number) : roundTo(number, log ? 4 : 12);
  });
  return [...new Set(numbers)];
}

/** Returns points at the ends of every range with every listed value: where a space leaves what is allowed, if it does. */
export function makeCorners(space: SpaceKey[]): Point[] {
  const ends = space.map((part) => ({ ...part, values: part.values ?? listEnds(part.range) }));
  const count = ends.reduce((product, { values }) => product * values.length, 1);
  if (count <= MAX_CORNERS) return makeGrid(ends);
  const at = (pick: (values: Value[]) => Value[]) => ends.map((part) => ({ ...part, values: pick(part.values) }));
  const spaces = [at((values) => values.slice(0, 1)), at((values) => values.slice(-1))];
  // One key at a time, the others at their first value that keeps it varied.
  for (const [index, one] of ends.entries()) {
    const needed = (part: SpaceKey): Value[] => one.when[part.key]?.slice(0, 1) ?? part.values?.slice(0, 1) ?? [];
    spaces.push(ends.map((part, other) => (other === index ? part : { ...part, values: needed(part) })));
  }
  return spaces.flatMap(makeGrid).map(({ params }, index) => ({ name: namePoint(index + 1), params }));
}

const MAX_CORNERS = 4096;

function listEnds(range: Range | null): number[] {
  if (range === null) return [];
  const { low, high, step, is_integer } = range;
  const isShort = is_integer && step !== null && countSteps(low, high, step) <= 16;
  return isShort ? listNumbers(range, null) : [low, high];
}
