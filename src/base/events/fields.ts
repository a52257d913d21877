/** What the kinds of events are made of. */

import { z } from 'zod';

type Fields = z.core.$ZodLooseShape;

/** An event of a run, at an optimizer step. */
export const at = <const Kind extends string, Shape extends Fields>(kind: Kind, about: string, fields: Shape) =>
  z.strictObject({ kind: z.literal(kind), step: z.number().describe('optimizer step'), ...fields }).describe(about);

/** An event that belongs to no step; its `step` is null. */
export const plain = <const Kind extends string, Shape extends Fields>(kind: Kind, about: string, fields: Shape) =>
  z.strictObject({ kind: z.literal(kind), step: z.null().optional(), ...fields }).describe(about);

export const text = z.string();
export const count = z.number();
export const maybe = z.number().nullable();
export const bytes = z.number();
export const seconds = z.number();
export const anything = z.record(z.string(), z.unknown());
