/** Parts of files that two lists share: such as have a moment of one file in both. */
/** A path, or a part of it, at two places, the lines and labels of each. */
export interface Pair {
  lines: [number, number];
  labels: [number, number];
}

export interface Overlap {
  /** Paths, or parts, that stand at two places or more, and the first of them. */
  numPaths: number;
  first: Pair | null;
  /** Those of them whose labels differ. */
  numConflicts: number;
  firstConflict: Pair | null;
  /** Files of which both lists have parts that do not overlap: the first part here, and one there. */
  sources: Pair[];
}

/** Gets a pair; `isSame` is false of two parts that overlap. */
export type Each = (pair: Pair, isSame: boolean) => void;

/** What is known of the clips of a list, by their places; times are microseconds, Infinity at the end of a whole file. */
export interface Places {
  readHash(place: number, half: 0 | 1): number;
  startOf(place: number): number;
  endOf(place: number): number;
  labelOf(place: number): number;
  lineOf(place: number): number;
  pair(place: number, other: Places, otherPlace: number): Pair;
}

/** Orders places by path, then start, then end, then as they stand. */
function sortPlaces(paths: Places, places: number[]): number[] {
  return places.sort((a, b) => compareClips(paths, a, paths, b) || a - b);
}

function comparePaths(one: Places, a: number, other: Places, b: number): number {
  return one.readHash(a, 0) - other.readHash(b, 0) || one.readHash(a, 1) - other.readHash(b, 1);
}

function compareClips(one: Places, a: number, other: Places, b: number): number {
  const [end, otherEnd] = [one.endOf(a), other.endOf(b)];
  const byPath = comparePaths(one, a, other, b) || one.startOf(a) - other.startOf(b);
  return byPath || (end === otherEnd ? 0 : end - otherEnd); // Infinity less itself is no number
}

/**
 * Returns the parts among `places` that overlap one among `others`; a whole file overlaps every part of it. Labels are
 * in conflict where both sides have the same part. `each` gets a pair for each of them.
 */
export function findOverlaps(paths: Places, places: number[], other: Places, others: number[], each?: Each): Overlap {
  const [ours, theirs] = [sortPlaces(paths, places), sortPlaces(other, others)];
  const reach = findReach(other, theirs);
  const found: Found[] = [];
  for (const [index, place] of ours.entries()) {
    const before = ours[index - 1];
    if (before !== undefined && compareClips(paths, before, paths, place) === 0) continue;
    const pair = findOne(paths, place, other, theirs, reach);
    if (pair !== undefined) found.push({ place, ...pair });
  }
  if (each !== undefined) for (const { place, twin, isSame } of found) each(paths.pair(place, other, twin), isSame);
  const conflicts = found.filter(({ place, twin, isSame }) => isSame && paths.labelOf(place) !== other.labelOf(twin));
  const tellFirst = (list: Found[]): Pair | null => {
    const first = list.reduce<Found | null>((one, next) => (one !== null && one.place < next.place ? one : next), null);
    return first === null ? null : paths.pair(first.place, other, first.twin);
  };
  return {
    numPaths: found.length,
    first: tellFirst(found),
    numConflicts: conflicts.length,
    firstConflict: tellFirst(conflicts),
    sources: findSources(paths, ours, other, theirs, new Set(found.map(({ place }) => place))),
  };
}

/** Returns a pair for each file that has places on both sides, and none that is told. */
function findSources(
  paths: Places,
  ours: number[],
  other: Places,
  theirs: number[],
  told: ReadonlySet<number>,
): Pair[] {
  const pairs: Pair[] = [];
  for (let start = 0, end = 0; start < ours.length; start = end) {
    const first = ours[start] as number;
    let isTold = false;
    for (; end < ours.length && comparePaths(paths, ours[end] as number, paths, first) === 0; end++)
      isTold ||= told.has(ours[end] as number);
    const twin = theirs[search(theirs, (one) => comparePaths(other, one, paths, first))];
    if (!isTold && twin !== undefined && comparePaths(other, twin, paths, first) === 0)
      pairs.push(paths.pair(first, other, twin));
  }
  return pairs.sort((one, two) => one.lines[0] - two.lines[0]);
}

interface Found {
  place: number;
  /** The place there, and whether it is the same part. */
  twin: number;
  isSame: boolean;
}

/** Returns the same part among `theirs`, else the one that reaches furthest into it. */
function findOne(
  paths: Places,
  place: number,
  other: Places,
  theirs: number[],
  reach: number[],
): Omit<Found, 'place'> | undefined {
  const same = theirs[search(theirs, (one) => compareClips(other, one, paths, place))];
  if (same !== undefined && compareClips(other, same, paths, place) === 0) return { twin: same, isSame: true };
  // Of those that begin before this one ends the one that ends last.
  const isBefore = (one: number): number => (other.startOf(one) < paths.endOf(place) ? -1 : 1);
  const twin = reach[search(theirs, (one) => comparePaths(other, one, paths, place) || isBefore(one)) - 1];
  if (twin === undefined || comparePaths(other, twin, paths, place) !== 0) return undefined;
  return other.endOf(twin) > paths.startOf(place) ? { twin, isSame: false } : undefined;
}

/** Returns for each place the one that ends last among it and those of the same path before it. */
function findReach(paths: Places, places: number[]): number[] {
  const reach: number[] = [];
  for (const [index, place] of places.entries()) {
    const before = reach[index - 1];
    const isFurther =
      before !== undefined &&
      comparePaths(paths, before, paths, place) === 0 &&
      paths.endOf(before) > paths.endOf(place);
    reach.push(isFurther ? before : place);
  }
  return reach;
}

/** Returns how many of the sorted places lie before what is looked for: `compare` is negative for them. */
function search(places: number[], compare: (place: number) => number): number {
  let [low, high] = [0, places.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compare(places[middle] as number) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
