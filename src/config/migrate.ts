/** Reads configurations that an earlier version stored: keys that they lack are filled in. */

import type { z } from 'zod';
import { UserError } from '../base/errors.ts';
import { flatten, nest } from '../base/objects.ts';
import { describeAllowed, failedKeys, KEYS, show, suggest } from './keys.ts';
import { Checker, resolveDraft } from './resolve.ts';
import { type Config, type Draft, fileSchema, resolvedSchema } from './schema.ts';
import { listFormerDefaults, type Migration, readFormat } from './stored-format.ts';

/** Where a stored configuration lies, and the format of what holds it where the configuration itself says none. */
export interface Stored {
  file: string;
  format?: number;
  migrations?: Migration[];
}

/**
 * Returns a resolved configuration that was stored, complete. Nothing that it names is looked for: weights, lists and
 * class names may be gone. Throws UserError with all that this version cannot read.
 */
export function readStoredConfig(stored: unknown, where: Stored): Config {
  const values = fillIn(stored, where);
  const isWhole = [...KEYS.keys()].every((key) => values.has(key));
  const derived = isWhole ? [] : flatten(resolveDraft(toDraft(values, where), new Checker('', new Map(), []), []));
  return check(resolvedSchema.safeParse(nest(new Map([...derived, ...values]))), values, where);
}

/** Returns a configuration that was stored before anything was derived, complete. Throws UserError likewise. */
export function readStoredDraft(stored: unknown, where: Stored): Draft {
  return toDraft(fillIn(stored, where), where);
}

function toDraft(values: Map<string, unknown>, where: Stored): Draft {
  return check(fileSchema.safeParse(nest(values)), values, where);
}

/** Returns what is written, and what its format meant by the keys that it lacks. */
function fillIn(stored: unknown, { file, format, migrations }: Stored): Map<string, unknown> {
  const written = new Map(flatten(stored));
  const holds = (section: string): boolean => [...written.keys()].some((key) => key.startsWith(`${section}.`));
  if (!['data', 'model', 'train'].every(holds))
    throw new UserError(`${file}  holds no configuration. Take the file of another run, or train again.`);
  const newest = migrations?.at(-1)?.format;
  const found = format ?? readFormat(stored, file, newest);
  written.delete('format');
  const unknown = [...written.keys()].filter((key) => !KEYS.has(key));
  if (unknown.length > 0)
    throw new UserError([
      ...unknown.map((key) => `${file}  ${key}: unknown key. ${suggest(key)}`),
      `${file}  may be of a later version of coldframe. Use the version that wrote it, or update this one.`,
    ]);
  return new Map([...listFormerDefaults(found, migrations), ...written]);
}

function check<T>(parsed: z.ZodSafeParseResult<T>, values: Map<string, unknown>, { file }: Stored): T {
  if (parsed.success) return parsed.data;
  throw new UserError([
    ...[...failedKeys(parsed.error)].map(
      (key) => `${file}  ${key}: found ${show(values.get(key))}. Allowed: ${describeAllowed(key)}.`,
    ),
    `${file}  does not fit this version of coldframe. Use the version that wrote it.`,
  ]);
}
