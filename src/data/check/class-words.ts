/** Classes in words, and those without a clip. */
import { plural, quote } from '../../base/words.ts';

const NUM_NAMED = 3;

export const nameClass = (label: number, names: string[] | null): string =>
  names?.[label] ? `${label} ${quote(names[label])}` : String(label);

/** The first few by name. */
export const nameClasses = (labels: number[], names: string[] | null): string =>
  labels
    .slice(0, NUM_NAMED)
    .map((label) => nameClass(label, names))
    .join(', ') + (labels.length > NUM_NAMED ? ', ...' : '');

/** Returns which classes have no clip, undefined where each has one. */
export function explainEmpty(perClass: Uint32Array, maxLabel: number, names: string[] | null): string | undefined {
  const empty = [...perClass.keys()].filter((label) => perClass[label] === 0);
  if (empty.length === 0) return undefined;
  const isShort = names === null && maxLabel + 1 < perClass.length;
  const advice = isShort
    ? `. The highest label is ${maxLabel}: if there are no more classes, set data.num_classes: ${maxLabel + 1}`
    : '';
  return `${empty.length} of ${plural(perClass.length, 'class')} have no clip: ${nameClasses(empty, names)}${advice}`;
}
