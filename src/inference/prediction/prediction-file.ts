/** What `predict --output` writes: a table, lines of JSON, or one JSON array, as the ending says. */

import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, extname, resolve } from 'node:path';
import { csvFormatBody, csvFormatRow } from 'd3-dsv';
import { showPath, UserError } from '../../base/errors.ts';
import type { EventOf } from '../../base/events/event.ts';
import { makeFolder, syncFolder, withPath, writeAll } from '../../base/files.ts';

type Predicted = EventOf<'predicted'>;

interface Form {
  head: string;
  /** The text of one video. */
  write: (found: Predicted, isFirst: boolean) => string;
  foot: string;
}

const COLUMNS = ['path', 'start', 'end', 'rank', 'label', 'name', 'probability', 'error'];

const FORMS: Readonly<Record<string, Form>> = {
  '.jsonl': { head: '', write: (found) => `${toJson(found)}\n`, foot: '' },
  '.json': { head: '[', write: (found, isFirst) => `${isFirst ? '\n' : ',\n'}${toJson(found)}`, foot: '\n]\n' },
  '.csv': {
    head: `${csvFormatRow(COLUMNS)}\n`,
    write: (found) => `${csvFormatBody(listRows(found), COLUMNS)}\n`,
    foot: '',
  },
};

const toJson = ({ kind: _kind, step: _step, ...found }: Predicted): string => JSON.stringify(found);

/** A row a class, the likeliest first; one of a video that cannot be read, or in which nothing is found. */
function listRows(found: Predicted): Record<string, string | number>[] {
  if ('error' in found) return [{ path: found.path, error: found.error }];
  const { path, start = '', end = '', classes } = found;
  const clip = { path, start, end };
  if (classes.length === 0) return [clip];
  return classes.map(({ label, name, probability }, index) => ({
    ...{ ...clip, rank: index + 1, label, name },
    probability: probability ?? '',
  }));
}

/** A file that grows beside its place, and is moved there when all is written. */
export class PredictionFile {
  readonly path: string;
  #count = 0;
  readonly #form: Form;
  readonly #partial: string;
  #descriptor: number | undefined;

  /** Throws UserError where it cannot be written, before anything is computed. */
  constructor(path: string) {
    this.path = resolve(path);
    this.#form = findForm(path);
    if (existsSync(path) && !statSync(path).isFile())
      throw new UserError(`--output  ${showPath(path)} is there, and is no file. Name another place.`);
    this.#partial = `${this.path}.${process.pid}.partial`;
    try {
      makeFolder(dirname(this.path));
      this.#descriptor = openSync(this.#partial, 'w');
      this.#write(this.#form.head);
    } catch (error) {
      throw withPath(error, path);
    }
  }

  get count(): number {
    return this.#count;
  }

  add(found: Predicted): void {
    this.#write(this.#form.write(found, this.#count === 0));
    this.#count += 1;
  }

  /** Gives it its name, also where the work was broken off: what was found stays. Without anything no file is left. */
  close(): void {
    if (this.#descriptor === undefined) return;
    if (this.#count > 0) this.#write(this.#form.foot);
    fsyncSync(this.#descriptor);
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
    if (this.#count === 0) rmSync(this.#partial, { force: true });
    else renameSync(this.#partial, this.path);
    syncFolder(dirname(this.path));
  }

  #write(text: string): void {
    if (this.#descriptor === undefined) return;
    try {
      writeAll(this.#descriptor, text);
    } catch (error) {
      throw withPath(error, this.path);
    }
  }
}

function findForm(path: string): Form {
  const form = FORMS[extname(path).toLowerCase()];
  if (form !== undefined) return form;
  throw new UserError(
    `--output  found ${showPath(path)}. Allowed: a file that ends with ${Object.keys(FORMS).join(', ')}.`,
  );
}
