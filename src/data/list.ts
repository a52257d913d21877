/** Checks lists of clips: what scan.ts finds in a list, and whether its clips are there. */
import { closeSync, fsyncSync, openSync, readSync, renameSync, rmSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { explainReadError, showPath, UserError } from '../base/errors.ts';
import { withPath } from '../base/files.ts';
import { type FoundClip, HASH_RULE, type ListOptions, type ListReport, Scan } from './scan.ts';

export type { ListOptions, ListReport } from './scan.ts';

const NUM_LOOKERS = 32;

/** How many of so many videos may be bad. One is within any limit but zero: a share of ten clips says nothing. 0.29 of
 * 100 are 29, though the product is a little less. */
export function countAllowed(fraction: number, numVideos: number): number {
  return fraction === 0 ? 0 : Math.max(1, Math.floor(Number((fraction * numVideos).toPrecision(12))));
}

/** Returns what is in a list, after writing it in normalised form if asked. Raises UserError with its bad lines. */
export async function checkList(options: ListOptions): Promise<ListReport> {
  const temporary = options.writeTo === undefined ? undefined : `${options.writeTo}.${process.pid}.tmp`;
  try {
    const scan = scanFile(options, temporary);
    if (!options.skipFiles) await lookForClips(scan);
    scan.finish();
    if (scan.numProblems > 0) throw new UserError(scan.listProblems());
    if (temporary !== undefined && options.writeTo !== undefined) renameSync(temporary, options.writeTo);
    const { numLines, sizeBytes, sha256, perClass, maxLabel, warnings, found, paths } = scan;
    return { numLines, sizeBytes, sha256, perClass, maxLabel, warnings, found, paths };
  } catch (error) {
    throw options.writeTo === undefined ? error : withPath(error, options.writeTo);
  } finally {
    if (temporary !== undefined) rmSync(temporary, { force: true });
  }
}

function scanFile(options: ListOptions, temporary: string | undefined): Scan {
  const input = openList(options.file);
  const output = temporary === undefined ? undefined : openSync(temporary, 'w');
  try {
    const scan = new Scan(options, output);
    scan.readAll(input);
    if (output !== undefined) fsyncSync(output);
    return scan;
  } finally {
    closeSync(input);
    if (output !== undefined) closeSync(output);
  }
}

function openList(file: string): number {
  try {
    const descriptor = openSync(file, 'r');
    readSync(descriptor, Buffer.alloc(1), 0, 1, 0); // a folder can be opened, not read
    return descriptor;
  } catch (error) {
    throw new UserError(`${showPath(file)}  ${explainReadError(error, null, 'a list of `<path> <label>` lines')}`);
  }
}

/** Notes each clip that is not there; if none is, the root is at fault, or the only clip. */
async function lookForClips(scan: Scan): Promise<void> {
  const { clips, suspects, root } = scan;
  const missing: { line: number; text: string }[] = [];
  await lookForAll([...clips, ...suspects], async ({ path: listed, line }, index) => {
    const path = resolve(root, listed);
    const seen = await lookFor(path);
    const isSuspect = index >= clips.length;
    if (typeof seen === 'string') {
      const rule = listed.startsWith('#') ? ` (${HASH_RULE})` : '';
      if (!isSuspect) missing.push({ line, text: `${path} ${seen}${rule}` });
    } else if (!isSuspect) scan.found.push({ path, line, ...seen });
    else {
      const advice = `Write \`./${listed}\` if it is a clip; else begin the comment with \`## \``;
      scan.fail(line, `is a comment, and ${path} exists. ${advice}.`);
    }
  });
  for (const list of [missing, scan.found]) list.sort((a, b) => a.line - b.line);
  const [first] = missing;
  if (first !== undefined && missing.length === clips.length) {
    const which =
      clips.length === 1 ? 'the only clip is not there' : `none of the ${clips.length} clips looked for is there`;
    scan.fail(first.line, `${which}. The data root is ${root}; first ${first.text}.`);
    return;
  }
  const isAllowed = missing.length <= countAllowed(scan.options.maxMissingFraction ?? 0, clips.length);
  for (const { line, text } of missing) {
    if (isAllowed) scan.warn(line, `${text}. It will be skipped.`);
    else scan.fail(line, `${text}.`);
  }
}

async function lookForAll<T>(items: T[], look: (item: T, index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const work = async () => {
    for (let index = next++; index < items.length; index = next++) await look(items[index] as T, index);
  };
  await Promise.all(Array.from({ length: NUM_LOOKERS }, work));
}

/** Returns which file it is, or why there is no video. */
async function lookFor(path: string): Promise<Pick<FoundClip, 'id' | 'size'> | string> {
  try {
    const found = await stat(path);
    if (found.isDirectory()) return 'is a folder, not a video';
    return found.size === 0 ? 'is empty' : { id: `${found.dev}:${found.ino}`, size: found.size };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === 'ENOENT' || code === 'ENOTDIR' ? 'does not exist' : `cannot be read (${code})`;
  }
}
