/** The normalised list that Python reads: `<absolute path>\t<label>` a line, of a part its start and end in seconds, too. */
import { writeAll } from '../base/files.ts';
import { formatTime, type Part, showLabels } from './line.ts';

/** No line is longer. */
export const LINE_BYTES = 1 << 20;

/** Gathers lines to large writes. */
export class Output {
  readonly #descriptor: number;
  readonly #prefix: Buffer;
  readonly #buffer = Buffer.alloc(2 * LINE_BYTES);
  #filled = 0;

  constructor(descriptor: number, root: string) {
    this.#descriptor = descriptor;
    this.#prefix = Buffer.from(root.endsWith('/') ? root : `${root}/`);
  }

  write(bytes: Buffer, start: number, end: number, label: number, part: Part | undefined): void {
    // Path and labels are shorter than the reading buffer, so half of this one always suffices.
    if (this.#filled > LINE_BYTES - this.#prefix.length - 80) this.flush();
    if (bytes[start] !== 47) this.#filled += this.#prefix.copy(this.#buffer, this.#filled);
    this.#filled += bytes.copy(this.#buffer, this.#filled, start, end);
    const times = part === undefined ? '' : `\t${formatTime(part.start)}\t${formatTime(part.end)}`;
    this.#filled += this.#buffer.write(`\t${showLabels(label)}${times}\n`, this.#filled, 'latin1');
  }

  flush(): void {
    writeAll(this.#descriptor, this.#buffer.subarray(0, this.#filled));
    this.#filled = 0;
  }
}
