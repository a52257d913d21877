/** Who may ask: whoever has the token; without one whoever is on this machine, and no page of elsewhere in their browser. */

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { UserError } from '../../base/errors.ts';
import { Refusal } from './refusal.ts';

const MIN_TOKEN = 16;
/** What may be read without a token: nothing here tells of a video. */
const OPEN = new Set(['/', '/healthz', '/openapi.json']);

export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));

/** Returns the token of a server: that of a file or of COLDFRAME_TOKEN; where others can reach it a new one. */
export function chooseToken(host: string, file: string | undefined): { token: string | null; isNew: boolean } {
  const given = file === undefined ? process.env.COLDFRAME_TOKEN : readFileSync(file, 'utf8').trim();
  if (given !== undefined && !/^[\x21-\x7e]+$/.test(given))
    throw new UserError(
      `${file ?? 'COLDFRAME_TOKEN'}  holds no token. Write ${MIN_TOKEN} or more letters and digits there.`,
    );
  if (given !== undefined && given.length < MIN_TOKEN)
    throw new UserError(
      `${file ?? 'COLDFRAME_TOKEN'}  holds a token of ${given.length} characters. Allowed: ${MIN_TOKEN} or more, such as \`openssl rand -hex 16\` gives.`,
    );
  if (given !== undefined) return { token: given, isNew: false };
  return isLoopback(host)
    ? { token: null, isNew: false }
    : { token: randomBytes(24).toString('base64url'), isNew: true };
}

/** Throws Refusal where a request may not be answered. */
export function refuseStrangers(request: FastifyRequest, token: string | null): void {
  const [path = ''] = request.url.split('?');
  if (token === null) refuseOtherPages(request);
  else if (!OPEN.has(path) && !matches(request.headers.authorization, token))
    throw new Refusal(
      'no_token',
      'Send the header `Authorization: Bearer TOKEN` with the token that the server was started with.',
    );
}

function matches(header: string | undefined, token: string): boolean {
  const [, given = ''] = /^Bearer +(\S+)$/i.exec(header ?? '') ?? [];
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(token));
}

/** A page that somebody visits could otherwise ask in their name: by a form, or under a name that points to this machine. */
function refuseOtherPages({ headers: { host = '', origin } }: FastifyRequest): void {
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  if (!isLoopback(name))
    throw new Refusal(
      'not_allowed',
      `Without a token the server answers as localhost or 127.0.0.1, not as ${name || 'a host without a name'}.`,
    );
  if (origin !== undefined && origin !== `http://${host}`)
    throw new Refusal('not_allowed', `Without a token no page of ${origin} may ask.`);
}
