/** Events of `serve`. */

import { at, count, plain, seconds, text } from './fields.ts';

export const SERVER = [
  at('serving', '`serve`: it answers from here on.', {
    ...{ address: text, checkpoint: text, device: text },
    root: text.describe('folder below which videos may be named'),
  }),
  plain('answered', '`serve`: one request.', {
    method: text,
    route: text.describe('`none`: there is no such one'),
    status: count.describe('of HTTP'),
    seconds,
    path: text.nullable().describe('of the video, as the client named it'),
    error: text.nullable(),
  }),
] as const;
