/** Where uploaded videos lie until they are answered: a folder of this server's own, which is gone with it. */

import { randomUUID } from 'node:crypto';
import { createWriteStream, mkdirSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import { formatBytes } from '../../base/format.ts';
import { tryLock } from '../../base/process/lock.ts';
import { Refusal } from './refusal.ts';

const PREFIX = `coldframe-serve-${process.getuid?.() ?? ''}-`;
const MOST_FIELDS = 8;
const MOST_FIELD_BYTES = 1024;

/** Makes the folder; returns it, and what removes it. Those of servers that were killed are removed first. */
export function makeUploadFolder(parent = realpathSync(tmpdir())): { folder: string; remove: () => void } {
  removeLeftOvers(parent);
  const folder = join(parent, `${PREFIX}${randomUUID()}`);
  const unlock = tryLock(folder); // first, so that a folder without a lock is nobody's
  mkdirSync(folder, { mode: 0o700 });
  const remove = (): void => {
    rmSync(folder, { recursive: true, force: true });
    if (typeof unlock === 'function') unlock();
  };
  return { folder, remove };
}

function removeLeftOvers(parent: string): void {
  const found = readdirSync(parent).filter((name) => name.startsWith(PREFIX));
  const folders = new Set(found.map((name) => name.slice(0, PREFIX.length + 36)));
  for (const name of folders) {
    const unlock = tryLock(join(parent, name));
    if (typeof unlock !== 'function') continue; // it serves
    rmSync(join(parent, name), { recursive: true, force: true });
    unlock();
  }
}

/** A video that was uploaded, with the other fields of its form. */
export interface Upload {
  /** As the client calls it. */
  name: string;
  file: string;
  fields: Record<string, string>;
}

/** Returns the video of a form once it lies in the folder. Throws Refusal; then nothing of it is left there. */
export async function receive(request: FastifyRequest, folder: string, maxBytes: number): Promise<Upload> {
  refuseLarge(Number(request.headers['content-length'] ?? 0) - MOST_FIELDS * MOST_FIELD_BYTES, maxBytes);
  const limits = {
    fileSize: maxBytes,
    files: 2,
    fields: MOST_FIELDS,
    parts: MOST_FIELDS + 2,
    fieldSize: MOST_FIELD_BYTES,
  };
  const fields: Record<string, string> = {};
  let saved: { name: string; file: string } | undefined;
  try {
    for await (const part of request.parts({ limits })) {
      if (part.type === 'field') fields[part.fieldname] = String(part.value);
      else if (part.fieldname === 'video' && saved === undefined) {
        saved = { name: part.filename || 'video', file: join(folder, `${randomUUID()}${safeEnding(part.filename)}`) };
        await save(part, saved.file, maxBytes);
      } else
        throw new Refusal(
          'not_understood',
          'The form may hold one file, in the field `video`. Send others by themselves.',
        );
    }
  } catch (error) {
    if (saved !== undefined) await rm(saved.file, { force: true });
    throw explain(error);
  }
  if (saved === undefined)
    throw new Refusal('not_understood', 'The form holds no file in the field `video`: curl -F video=@FILE.');
  return { ...saved, fields };
}

async function save(part: MultipartFile, file: string, maxBytes: number): Promise<void> {
  const large = new AbortController();
  part.file.once('limit', () => large.abort(tooLarge(maxBytes)));
  try {
    await pipeline(part.file, createWriteStream(file, { flags: 'wx', mode: 0o600 }), { signal: large.signal });
  } catch (error) {
    throw large.signal.aborted ? large.signal.reason : error;
  }
  if (part.file.truncated) throw tooLarge(maxBytes); // it was so before anybody listened
}

function refuseLarge(bytes: number, maxBytes: number): void {
  if (bytes > maxBytes) throw tooLarge(maxBytes);
}

const tooLarge = (maxBytes: number): Refusal =>
  new Refusal('too_large', `The upload is larger than the ${formatBytes(maxBytes)} that are allowed.`);

function explain(error: unknown): unknown {
  const { code = '', message = '' } = error as NodeJS.ErrnoException;
  if (error instanceof Refusal) return error;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new Refusal('disk_full', 'There is no room for the upload. Try again later.');
  if (code.startsWith('FST_') && code !== 'FST_PREMATURE_CLOSE')
    return new Refusal('not_understood', `The form cannot be read: ${message}.`);
  if ('syscall' in (error as object) && code !== 'ECONNRESET') return error;
  return new Refusal('torn', 'The upload ended before its end.');
}

/** FFmpeg goes by what a file holds, and asks its ending where that leaves doubt. */
const safeEnding = (name: string | undefined): string => /^\.[a-z0-9]{1,8}$/i.exec(extname(name ?? ''))?.[0] ?? '';
