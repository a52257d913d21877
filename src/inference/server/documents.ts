/** What the server says of itself at /openapi.json: made of the schemas that requests are read with. */

import type { SwaggerOptions } from '@fastify/swagger';
import type { FastifySchema } from 'fastify';
import { z } from 'zod';
import { REFUSALS, type RefusalCode } from './refusal.ts';

const top = z.coerce.number().int().min(1).describe('how many classes to name');

export const ALSO = ['timeline', 'attention'] as const;
export type Also = (typeof ALSO)[number];
const also = z
  .string()
  .default('')
  .transform((words, context) => {
    const given = words.split(',').filter((word) => word !== '');
    const wrong = given.filter((word) => !ALSO.some((known) => known === word));
    if (wrong.length > 0)
      context.addIssue({ code: 'custom', message: `found ${wrong.join(', ')}; allowed are ${ALSO.join(' and ')}` });
    return new Set(given as Also[]);
  })
  .describe('`timeline`, `attention`, or both with a comma between: what else is told of the video');

/** The body of a request that names a video. */
export const namedSchema = z.strictObject({
  path: z.string().min(1).describe('below the allowed folder; PATH#t=START,END names a part, in seconds'),
  top: top.optional(),
  also,
});

/** The fields of a form beside the video. */
export const fieldsSchema = z.strictObject({ top: top.optional(), also });

const share = z.number().min(0).max(1);

const predictedSchema = z.object({
  time: z.iso.datetime(),
  kind: z.literal('predicted'),
  step: z.null(),
  path: z.string().describe('as the client named it'),
  classes: z
    .array(
      z.object({ label: z.int().min(0), name: z.string(), probability: share.nullable(), threshold: share.optional() }),
    )
    .describe('likeliest first; of several labels a video those that reach their threshold'),
  timeline: z
    .looseObject({})
    .optional()
    .describe(
      'what is seen when: windows, segments, seconds and is_whole, as `predict --timeline` writes it; or error',
    ),
  attention: z
    .looseObject({})
    .optional()
    .describe(
      'frames with their weights, and strip, a PNG as a data: address, as `predict --explain` has it; or error',
    ),
});

const refusedSchema = z.object({
  error: z.string().describe('for people'),
  code: z.enum(Object.keys(REFUSALS) as RefusalCode[]),
  kind: z.literal('predicted').optional().describe('of a video that was looked at, as `path`'),
  path: z.string().optional(),
});

export const healthSchema = z.object({
  status: z.enum(['ok', 'starting', 'stopping']),
  step: z.int().nullable().describe('null until it is loaded'),
  in_hand: z.int().describe('requests'),
  waiting: z.int().describe('videos'),
  restarts: z.int(),
});

/** Of draft 2020-12, which OpenAPI 3.1 goes by. */
const describe = (schema: z.ZodType, io: 'input' | 'output'): object => {
  const { $schema, ...rest } = z.toJSONSchema(schema, { io });
  return rest;
};
const json = (schema: z.ZodType, about: string) => ({
  description: about,
  content: { 'application/json': { schema: describe(schema, 'output') } },
});
const text = (type: string, about: string) => ({
  description: about,
  content: { [type]: { schema: { type: 'string' } } },
});

/** By status: several refusals may share one. */
function describeRefusals(): Record<number, object> {
  const found: Record<number, string> = {};
  for (const [code, { status, about }] of Object.entries(REFUSALS))
    found[status] = `${found[status] === undefined ? '' : `${found[status]}; `}\`${code}\`: ${about}`;
  return Object.fromEntries(Object.entries(found).map(([status, about]) => [status, json(refusedSchema, about)]));
}

const form = {
  type: 'object',
  required: ['video'],
  properties: {
    video: { type: 'string', format: 'binary' },
    top: describe(top, 'input'),
    also: describe(also, 'input'),
  },
};

export const ROUTES = {
  predict: {
    summary: 'The classes of a video',
    description: 'A form with the video in the field `video`, or JSON that names one below the allowed folder.',
    security: [{ token: [] }],
    body: {
      content: {
        'multipart/form-data': { schema: form },
        'application/json': { schema: describe(namedSchema, 'input') },
      },
    },
    response: { 200: json(predictedSchema, 'as `coldframe predict --json` prints it'), ...describeRefusals() },
  },
  health: {
    summary: 'Whether a video can be looked at now',
    response: { 200: json(healthSchema, 'it can'), 503: json(healthSchema, 'not yet, or not any more') },
  },
  metrics: {
    summary: 'Figures for Prometheus',
    security: [{ token: [] }],
    response: { 200: text('text/plain', 'in its text format') },
  },
} as const satisfies Record<string, FastifySchema>;

export const ABOUT: SwaggerOptions = {
  openapi: {
    openapi: '3.1.0',
    info: { title: 'coldframe serve', description: 'Names the classes of videos.', version: '1' },
    components: {
      securitySchemes: { token: { type: 'http', scheme: 'bearer', description: 'where the server has a token' } },
    },
  },
};
