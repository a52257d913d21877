/** Options that several commands share. */

import type { Argv } from 'yargs';

/** Of an option given twice the last counts, so that `make train ARGS="--run-dir other"` can overrule. */
export const lastOf = (value: string | string[]): string => [value].flat().at(-1) ?? '';

export const CONFIG = {
  type: 'string',
  demandOption: true,
  requiresArg: true,
  describe: 'YAML configuration',
  coerce: lastOf,
} as const;
export const CHECKPOINT = {
  type: 'string',
  demandOption: true,
  requiresArg: true,
  describe: 'checkpoint folder, such as runs/demo/checkpoints/latest',
  coerce: lastOf,
} as const;
export const TRIAL = {
  type: 'string',
  requiresArg: true,
  describe: 'which trial, of a checkpoint that holds several',
  coerce: lastOf,
} as const;
export const JSON_LINES = {
  type: 'boolean',
  default: false,
  describe: 'print JSON lines and nothing else on stdout',
} as const;
export const SET = {
  type: 'string',
  requiresArg: true,
  describe: 'change one key, as in --set train.lr=1e-3; may be repeated',
  default: [] as string[],
  coerce: (value: string | string[]): string[] => [value].flat(),
} as const;

/** What yargs parses with the options that `Build` declares. */
export type Parsed<Build extends (yargs: Argv) => Argv<object>> =
  ReturnType<Build> extends Argv<infer Args> ? Args : never;
