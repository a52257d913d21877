/** Renders the JSON Schemas of the configuration and of the sweep file: an editor completes and checks by them. */

import { z } from 'zod';
import { KEYS } from '../src/config/keys.ts';
import { fileSchema } from '../src/config/schema.ts';
import { text } from '../src/executors/schema.ts';
import { spaceKeySchema, sweepSchema, value } from '../src/sweep/definition/schema.ts';

const basesOf = (about: string) => z.union([text, z.array(text)]).describe(about);

/** Every schema, by the file that it goes into. */
export function renderSchemas(): [string, string][] {
  const write = (schema: object): string => `${JSON.stringify(schema, null, 2)}\n`;
  return [
    ['configs/coldframe.schema.json', write(describeConfig())],
    ['configs/sweeps/sweep.schema.json', write(describeSweep())],
  ];
}

function describeConfig(): object {
  const file = fileSchema.extend({
    extends: basesOf('Files this one changes; later ones win, this file wins over all.').optional(),
    format: z.int().min(1).optional().describe('Of a file that coldframe wrote.'),
  });
  const { $schema, ...rest } = z.toJSONSchema(file, { io: 'input' });
  return { $schema, title: 'coldframe configuration', ...rest };
}

function describeSweep(): object {
  const when = z
    .record(z.string(), z.union([value, z.array(value)]))
    .describe('Vary it only where these keys have one of these values.');
  const varied = z.union([z.array(value).min(1), spaceKeySchema.extend({ when }).partial()]);
  const known = Object.fromEntries([...KEYS.keys()].map((key) => [key, varied.optional()]));
  const file = sweepSchema.extend({
    extends: basesOf('Sweep files this one changes; this file wins.').optional(),
    set: z.record(z.string(), z.unknown()).optional().describe('Changes of the base, dotted keys.'),
    space: z.object(known).optional().describe('What is varied, dotted keys of the configuration.'),
  });
  // A file that another one extends has no base of its own.
  const { $schema, required: _, ...rest } = z.toJSONSchema(file, { io: 'input', reused: 'ref' });
  return { $schema, title: 'coldframe sweep', ...rest };
}
