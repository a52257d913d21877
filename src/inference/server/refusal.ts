/** Why a request is not answered: a status of HTTP, a word for programs, a line for people. */

import type { z } from 'zod';
import { stampEvent } from '../../base/events/event.ts';

/** Every refusal that a client may meet, for the OpenAPI document as well. */
export const REFUSALS = {
  not_understood: { status: 400, about: 'the request has not the form that is asked for' },
  torn: { status: 400, about: 'the upload ended before its end' },
  no_token: { status: 401, about: 'the token is missing or wrong' },
  not_allowed: { status: 403, about: 'the path is not below the allowed folder, or the request comes from elsewhere' },
  not_found: { status: 404, about: 'there is no such file, or no such address' },
  too_slow: { status: 408, about: 'the upload, or the answer, took longer than is allowed' },
  too_large: { status: 413, about: 'the upload is larger than is allowed' },
  too_long: { status: 413, about: 'the video lasts longer than is allowed' },
  not_accepted: { status: 415, about: 'the body is neither multipart/form-data nor application/json' },
  bad_video: { status: 422, about: 'the video cannot be read' },
  too_many: { status: 429, about: 'as many requests as are allowed are in hand already' },
  failed: { status: 500, about: 'a bug, or a video that ends Python each time' },
  stopping: { status: 503, about: 'the server is being stopped' },
  disk_full: { status: 507, about: 'there is no room for the upload' },
} as const;

export type RefusalCode = keyof typeof REFUSALS;

export class Refusal extends Error {
  readonly code: RefusalCode;
  readonly status: number;
  /** Of a video: its path, as the client named it; the message is of that. */
  readonly path: string | null;

  constructor(code: RefusalCode, message: string, path: string | null = null) {
    super(message);
    this.name = 'Refusal';
    this.code = code;
    this.status = REFUSALS[code].status;
    this.path = path;
  }
}

/** Returns any error as a refusal; what nobody thought of is a bug, and `cause` then holds it. */
export function asRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  const { code = '', statusCode = 500, message } = error as Error & { code?: string; statusCode?: number };
  if (statusCode === 415)
    return new Refusal('not_accepted', 'Send a form (curl -F video=@FILE) or JSON (content-type: application/json).');
  if (statusCode === 413) return new Refusal('too_large', 'The JSON is larger than is allowed.');
  if (statusCode >= 400 && statusCode < 500)
    return new Refusal('not_understood', `${message}${/[.!]$/.test(message) ? '' : '.'}`);
  const refusal = new Refusal(
    'failed',
    `This is a bug in coldframe${code === '' ? '' : ` (${code})`}. The server's log says more.`,
  );
  refusal.cause = error;
  return refusal;
}

/** Returns the body of a refusal; of a video that was looked at it is as `predict --json` prints it. */
export function describeRefusal({ code, message, path }: Refusal): object {
  if (path === null) return { error: message, code };
  return { ...stampEvent({ kind: 'predicted', path, error: message }), code };
}

/** Returns what a request says, in the form that is asked for. Throws Refusal with all that is wrong. */
export function read<T>(schema: z.ZodType<T>, given: unknown): T {
  const result = schema.safeParse(given ?? {});
  if (result.success) return result.data;
  const problems = result.error.issues.map(
    ({ path, message }) => `${path.length === 0 ? 'body' : path.join('.')}: ${message}`,
  );
  throw new Refusal('not_understood', problems.join('; '));
}
