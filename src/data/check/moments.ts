/** Which clips of the same content show a moment of it both: parts that overlap, or whole files. */
import { formatTime } from '../line.ts';
import type { FoundClip } from '../scan.ts';

const startOf = ({ part }: FoundClip): number => part?.start ?? 0;
const endOf = ({ part }: FoundClip): number => part?.end ?? Number.POSITIVE_INFINITY;

/** Returns the same for clips that are the same part of their files. */
export const describePart = ({ part }: FoundClip): string =>
  part === undefined ? '' : `${formatTime(part.start)},${formatTime(part.end)}`;

/** The clips of a list that have one content. */
export class Moments {
  readonly #clips: FoundClip[] = [];
  /** For each clip in the order of their starts, of it and those before it the one that ends last, and the one of
   * another path that does. */
  #reach: { last: FoundClip; other: FoundClip | undefined }[] | undefined;

  add(clip: FoundClip): void {
    this.#clips.push(clip);
  }

  /** Returns a clip of another path that has a moment of this one. */
  find(clip: FoundClip): FoundClip | undefined {
    this.#reach ??= this.#measure();
    let [low, high] = [0, this.#clips.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (startOf(this.#clips[middle] as FoundClip) < endOf(clip)) low = middle + 1;
      else high = middle;
    }
    const reach = this.#reach[low - 1];
    const found = reach?.last.path === clip.path ? reach.other : reach?.last;
    return found !== undefined && endOf(found) > startOf(clip) ? found : undefined;
  }

  #measure(): { last: FoundClip; other: FoundClip | undefined }[] {
    this.#clips.sort((a, b) => startOf(a) - startOf(b) || a.line - b.line);
    let [last, other]: (FoundClip | undefined)[] = [];
    return this.#clips.map((clip) => {
      const isFurther = last === undefined || endOf(clip) > endOf(last);
      if (isFurther && last?.path !== clip.path) other = last;
      else if (!isFurther && last?.path !== clip.path && (other === undefined || endOf(clip) > endOf(other)))
        other = clip;
      if (isFurther) last = clip;
      return { last: last as FoundClip, other };
    });
  }
}
