/** The paths of a list as hashes, to find those listed twice: eight bytes a path, for lists of millions of lines. */

/** Blocks never move: a growing array is copied, and holds both copies for a while. */
const BLOCK_PATHS = 1 << 16;

export class SeenPaths {
  length = 0;
  readonly #blocks: Uint32Array[] = [];
  #block = new Uint32Array(0);
  /** Where the distance between a path's place and its line changes (blank lines, comments), and to what. */
  readonly #jumps: { place: number; distance: number }[] = [];
  #distance = Number.NaN;

  /** Takes the two halves of a path's hash. Lines come in rising order. */
  add(low: number, high: number, line: number): void {
    const place = this.length++;
    const at = 2 * (place % BLOCK_PATHS);
    if (at === 0) {
      this.#block = new Uint32Array(2 * BLOCK_PATHS);
      this.#blocks.push(this.#block);
    }
    this.#block[at] = low;
    this.#block[at + 1] = high;
    if (line - place === this.#distance) return;
    this.#distance = line - place;
    this.#jumps.push({ place, distance: this.#distance });
  }

  /** Returns how many paths occur more than once, and the first two lines of the one that comes first. */
  findRepeated(): { numRepeated: number; lines: number[] } {
    const candidates = this.#repeatedHalves();
    const placesOf = new Map<string, number[]>();
    for (let place = 0; candidates.size > 0 && place < this.length; place++) {
      const low = this.#read(place, 0);
      if (!candidates.has(low)) continue;
      const hash = `${low} ${this.#read(place, 1)}`;
      const places = placesOf.get(hash);
      if (places === undefined) placesOf.set(hash, [place]);
      else if (places.length === 1) places.push(place);
    }
    const repeated = [...placesOf.values()].filter((places) => places.length > 1);
    return { numRepeated: repeated.length, lines: (repeated[0] ?? []).map((place) => this.#lineOf(place)) };
  }

  /** Sorting half of each hash leaves few candidates; a table of a million whole ones would take 60 MB. */
  #repeatedHalves(): Set<number> {
    const sorted = new Uint32Array(this.length);
    for (let place = 0; place < this.length; place++) sorted[place] = this.#read(place, 0);
    sorted.sort();
    return new Set(sorted.filter((low, index) => index > 0 && low === sorted[index - 1]));
  }

  #read(place: number, half: 0 | 1): number {
    return this.#blocks[Math.floor(place / BLOCK_PATHS)]?.[2 * (place % BLOCK_PATHS) + half] ?? 0;
  }

  #lineOf(place: number): number {
    const jump = this.#jumps.findLast((one) => one.place <= place);
    return place + (jump?.distance ?? 0);
  }
}
