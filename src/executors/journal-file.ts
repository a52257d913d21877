/** The file of a journal: lines that are only appended, each on the disk before anything follows from it. */

import { closeSync, existsSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from '../base/errors.ts';
import { appendTo, syncFolder } from '../base/files.ts';

export type Timed<Entry> = { time: string } & Entry;

/** An open journal; one process writes it. */
export class JournalFile<Entry extends object> {
  readonly #file: string;
  readonly #descriptor: number;
  readonly #take: (entry: Timed<Entry>) => void;

  /** Opens or begins a journal, and gives each of its entries to `take`; a line torn by a kill is cut off. */
  constructor(file: string, take: (entry: Timed<Entry>) => void) {
    const isNew = !existsSync(file);
    this.#file = file;
    this.#take = take;
    this.#descriptor = openSync(file, 'a+');
    if (isNew) syncFolder(dirname(file)); // else a power failure may take the name of a file whose lines are safe
    const bytes = readFileSync(file);
    const end = bytes.lastIndexOf(0x0a) + 1;
    if (end < bytes.length) ftruncateSync(this.#descriptor, end);
    for (const entry of parseLines<Entry>(bytes.toString('utf8', 0, end), file)) take(entry);
  }

  /** Appends entries; when it returns they are on the disk. */
  append(entries: Entry[]): void {
    const time = new Date().toISOString();
    const timed = entries.map((entry): Timed<Entry> => ({ time, ...entry }));
    const lines = timed.map((entry) => `${JSON.stringify(entry)}\n`).join('');
    appendTo(this.#descriptor, this.#file, lines, true);
    for (const entry of timed) this.#take(entry);
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}

export function parseLines<Entry>(text: string, file: string): Timed<Entry>[] {
  const lines = text.split('\n').slice(0, -1);
  return lines.map((line, index) => {
    try {
      return JSON.parse(line) as Timed<Entry>;
    } catch (error) {
      throw new UserError(
        `${file}:${index + 1}  is not valid JSON: ${(error as Error).message}. Only the last line may be torn, and the ` +
          'file is never edited. Restore it, or choose another folder.',
      );
    }
  });
}
