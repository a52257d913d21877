/** Downloads a file over HTTP and checks its SHA-256: goes on where it stopped, and a file has its name only when it is whole and right. */

import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '../base/errors.ts';
import { type Fetcher, openFetcher } from './proxy.ts';

const NUM_RETRIES = 5; // in a row, without a byte that was not there before
const RETRIED_STATUS = [408, 425, 429]; // besides 5xx: the server asks to come again

export interface Source {
  url: string;
  /** 64 lower-case hex digits. */
  sha256: string;
  /** An attempt is given up when no byte comes for so long. */
  stallSeconds: number;
  /** Wait before the first retry; doubles with every further one. */
  retrySeconds: number;
  signal: AbortSignal;
}

export interface Listener {
  note(text: string): void;
  /** Bytes that are there, and that there will be (null: the server does not say). */
  received(bytes: number, totalBytes: number | null): void;
}

/** Downloads to `FILE.partial`, goes on with what lies there, verifies and renames. The caller holds the file's lock. */
export async function download(source: Source, file: string, listener: Listener): Promise<void> {
  const fetcher = await openFetcher();
  const partial = await Partial.open(`${file}.partial`);
  try {
    for (let pass = 0; ; pass++) {
      const type = partial.digest() === source.sha256 ? '' : await complete(fetcher, partial, source, listener);
      const found = partial.digest();
      if (found === source.sha256) return await partial.finish(file);
      if (pass > 0 || !partial.isSpliced) {
        await partial.restart(); // the next start must not go on with wrong bytes
        throw new UserError(describeMismatch(source, found, type));
      }
      listener.note(`The parts of ${file}.partial do not belong together. Once more from the start.`);
      await partial.restart();
    }
  } finally {
    await partial.close();
    await fetcher.close();
  }
}

function describeMismatch({ url, sha256 }: Source, found: string, type: string): string {
  const page = type.startsWith('text/html') ? ' It is a web page: perhaps an error, or a login.' : '';
  return (
    `${showUrl(url)}  has SHA-256 ${found}; ${sha256} is expected.${page} ` +
    'What came was removed. Take another mirror with --url, or correct --sha256.'
  );
}

/** The address without its query, which may hold a key. */
export function showUrl(url: string): string {
  const { origin, pathname } = new URL(url);
  return origin + pathname;
}

export async function hashFile(file: string): Promise<string> {
  const handle = await open(file);
  const hash = createHash('sha256');
  for await (const chunk of handle.createReadStream()) hash.update(chunk);
  return hash.digest('hex');
}

/** Fetches what is missing, over as many attempts as it takes; returns the content type. */
async function complete(fetcher: Fetcher, partial: Partial, source: Source, listener: Listener): Promise<string> {
  let mostBytes = partial.size;
  let numFailures = 0;
  for (;;) {
    const end = await attempt(fetcher, partial, source, listener);
    if ('type' in end) return end.type;
    numFailures = partial.size > mostBytes ? 1 : numFailures + 1;
    mostBytes = Math.max(mostBytes, partial.size);
    const kept =
      partial.size > 0 ? ` ${partial.size} bytes are kept in ${partial.path}; the same command goes on.` : '';
    if (numFailures > NUM_RETRIES) {
      const advice = 'Check the network, take a mirror with --url, or put the file in its place yourself.';
      throw new UserError(`${showUrl(source.url)}  ${end.problem} (${numFailures} times).${kept} ${advice}`);
    }
    const seconds = source.retrySeconds * 2 ** (numFailures - 1);
    listener.note(`${showUrl(source.url)}  ${end.problem}. Trying again in ${seconds} s.`);
    await sleep(seconds * 1000, undefined, { signal: source.signal });
  }
}

type AttemptEnd = { type: string } | { problem: string };

/** One request. Throws what no retry mends: a refusal, the disk, the user's stop. */
async function attempt(fetcher: Fetcher, partial: Partial, source: Source, listener: Listener): Promise<AttemptEnd> {
  const stall = new AbortController();
  const timer = setTimeout(() => stall.abort(), source.stallSeconds * 1000);
  const signal = AbortSignal.any([stall.signal, source.signal]);
  try {
    const response = await fetcher.fetch(source.url, { headers: describeRange(partial), signal });
    const problem = await judge(response, partial, source);
    if (problem !== null) {
      await response.body?.cancel();
      return { problem };
    }
    const total = readTotal(response, partial.size);
    for await (const chunk of response.body ?? []) {
      await partial.append(chunk);
      timer.refresh();
      listener.received(partial.size, total);
    }
    if (total !== null && partial.size < total) return { problem: 'the connection ended early' };
    return { type: response.headers.get('content-type') ?? '' };
  } catch (error) {
    if (source.signal.aborted || error instanceof UserError || isDiskError(error)) throw error;
    if (stall.signal.aborted) return { problem: `no byte came for ${source.stallSeconds} s` };
    const { message, code } = findCause(error as Error);
    return { problem: `the connection failed: ${message || code}` };
  } finally {
    clearTimeout(timer);
  }
}

/** fetch says `fetch failed`, a proxy `Request was cancelled`, and why in the cause. */
function findCause(error: NodeJS.ErrnoException): NodeJS.ErrnoException {
  const cause = error.cause as NodeJS.ErrnoException | undefined;
  return cause?.message === undefined ? error : findCause(cause);
}

function describeRange(partial: Partial): Record<string, string> {
  const plain = { 'accept-encoding': 'identity' }; // ranges count encoded bytes
  if (partial.size === 0) return plain;
  const range = { ...plain, range: `bytes=${partial.size}-` };
  return partial.etag === null ? range : { ...range, 'if-range': partial.etag };
}

/** Makes the partial file ready for the response's body, or returns why there is to be another attempt. */
async function judge(response: Response, partial: Partial, { url }: Source): Promise<string | null> {
  const { status, statusText, headers } = response;
  const strongEtag = headers.get('etag')?.startsWith('"') ? headers.get('etag') : null;
  if (status === 206) {
    const isNext = headers.get('content-range')?.startsWith(`bytes ${partial.size}-`) ?? false;
    const isSame = partial.etag === null || partial.etag === strongEtag;
    if (isNext && isSame) partial.isSpliced = true;
    else await partial.restart();
    return isNext && isSame ? null : 'the server answered with another part, or of another file';
  }
  if (status === 416) {
    await partial.restart();
    return 'the server has no byte after those kept: another file';
  }
  if (status >= 500 || RETRIED_STATUS.includes(status)) return `the server answered ${status} ${statusText}`.trim();
  if (status !== 200) {
    await response.body?.cancel();
    throw new UserError(
      `${showUrl(url)}  the server answered ${status} ${statusText}. Give the file's address in --url.`,
    );
  }
  await partial.restart(); // no ranges here, or the file has changed
  partial.etag = strongEtag;
  return null;
}

function readTotal({ headers }: Response, offset: number): number | null {
  const length = headers.get('content-length');
  return length === null || headers.has('content-encoding') ? null : offset + Number(length);
}

/** Errors of file operations come bare; those of the network are wrapped by fetch. */
export function isDiskError(error: unknown): error is NodeJS.ErrnoException {
  return typeof error === 'object' && error !== null && 'syscall' in error;
}

/** `FILE.partial` with the hash of what it holds. */
class Partial {
  readonly path: string;
  size = 0;
  /** Of the response that began the file in this process. */
  etag: string | null = null;
  /** Its parts came from more than one response. */
  isSpliced = false;
  private readonly handle: FileHandle;
  private hash = createHash('sha256');

  private constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.handle = handle;
  }

  static async open(path: string): Promise<Partial> {
    const partial = new Partial(path, await open(path, constants.O_RDWR | constants.O_CREAT, 0o644));
    for await (const chunk of partial.handle.createReadStream({ autoClose: false, start: 0 })) {
      partial.hash.update(chunk);
      partial.size += chunk.length;
    }
    partial.isSpliced = partial.size > 0;
    return partial;
  }

  digest(): string {
    return this.hash.copy().digest('hex');
  }

  async append(chunk: Uint8Array): Promise<void> {
    for (let done = 0; done < chunk.length; ) {
      const { bytesWritten } = await this.handle.write(chunk, done, chunk.length - done, this.size + done);
      done += bytesWritten;
    }
    this.hash.update(chunk);
    this.size += chunk.length;
  }

  async restart(): Promise<void> {
    await this.handle.truncate(0);
    this.hash = createHash('sha256');
    this.size = 0;
    this.etag = null;
    this.isSpliced = false;
  }

  async finish(file: string): Promise<void> {
    await this.handle.sync();
    await rename(this.path, file);
    const folder = await open(dirname(file));
    await folder.sync().finally(() => folder.close());
  }

  async close(): Promise<void> {
    await this.handle.close();
    if (this.size === 0) await rm(this.path, { force: true });
  }
}
