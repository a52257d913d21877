/**
 * The format of what is stored: config.json, checkpoint.json, cohort.json, sweep.json and journal.jsonl say it, and a
 * file without one is of format 1. A later version reads an older file; migrate.ts fills in the keys it lacks.
 */
import { UserError } from '../base/errors.ts';

export interface Migration {
  /** The format that began with it, one above the entry before. */
  format: number;
  /** Keys that files of the formats before do not have, where today's default is not what was done then: with what was. */
  before: Record<string, unknown>;
}

/**
 * A new key whose default does what was always done needs no entry. Another one gets an entry here, and py/coldframe/
 * checkpoint.py the same FORMAT (a test holds them equal).
 */
export const MIGRATIONS: Migration[] = [];

export const FORMAT = MIGRATIONS.at(-1)?.format ?? 1;

/** Returns the format that a stored object says. Throws UserError for one of a later version. */
export function readFormat(stored: unknown, file: string, newest = FORMAT): number {
  const { format = 1 } = (stored ?? {}) as { format?: unknown };
  if (Number.isInteger(format) && Number(format) >= 1 && Number(format) <= newest) return Number(format);
  const what =
    Number.isInteger(format) && Number(format) > newest
      ? 'a later version of coldframe wrote it'
      : 'no version wrote that';
  throw new UserError(
    `${file}  has format ${JSON.stringify(format)}: ${what}. This version reads formats up to ${newest}. ` +
      'Use the version that wrote it, or update this one.',
  );
}

/** Returns what files of a format mean by the keys that they lack, where that is not the default of today. */
export function listFormerDefaults(format: number, migrations = MIGRATIONS): Map<string, unknown> {
  const later = migrations.filter((one) => one.format > format).toReversed();
  return new Map(later.flatMap(({ before }) => Object.entries(before))); // of a key that changed twice the first counts
}
