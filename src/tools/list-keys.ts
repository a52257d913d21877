/** `keys`: the keys of a configuration, each with what it may be, its default and its meaning, from the schema. */

import { z } from 'zod';
import { UserError } from '../base/errors.ts';
import { getAt } from '../base/objects.ts';
import type { Report } from '../base/printer.ts';
import { describeAllowed, findKey, KEYS, suggest } from '../config/keys.ts';
import { fileSchema } from '../config/schema.ts';

interface Key {
  key: string;
  allowed: string;
  default: unknown;
  about: string;
}

/** Prints the keys whose name or meaning holds the pattern; all of them without one. */
export function showKeys(pattern: string | undefined, report: Report): void {
  const keys = listKeys().filter((one) => pattern === undefined || matches(one, pattern));
  if (keys.length === 0)
    throw new UserError(`keys  none has ${pattern} in its name or meaning. ${suggest(pattern ?? '')}`);
  if (report.json) for (const one of keys) report.event({ kind: 'key', ...one });
  else report.print(keys.map(describeKey).join('\n'));
}

export function listKeys(): Key[] {
  const defaults = fileSchema.parse({});
  return [...KEYS].map(([key, schema]) => {
    const value = getAt(defaults, key);
    const { description = '' } = z.toJSONSchema(schema, { io: 'input' });
    return { key, allowed: describeAllowed(key), default: value, about: description };
  });
}

function matches({ key, about, allowed }: Key, pattern: string): boolean {
  const found = findKey(pattern);
  if (found?.key === key) return true;
  const small = pattern.toLowerCase();
  return [key, about, allowed].some((text) => text.toLowerCase().includes(small));
}

function describeKey({ key, allowed, default: value, about }: Key): string {
  return `${key}  [${JSON.stringify(value)}]\n    ${about}\n    ${allowed}`;
}
