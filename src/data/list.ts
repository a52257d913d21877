/** Checks lists of clips: what scan.ts finds in a list, and whether its clips are there. */
import { closeSync, fstatSync, fsyncSync, openSync, readSync, renameSync, rmSync } from 'node:fs';
import { explainReadError, UserError } from '../base/errors.ts';
import { withPath } from '../base/files.ts';
import { Findings } from './check/findings.ts';
import { Presence } from './check/presence.ts';
import { type ListOptions, type ListReport, NoList, Scan } from './scan.ts';

export type { ListOptions, ListReport } from './scan.ts';

/** How many of so many videos may be bad. One is within any limit but zero: a share of ten clips says nothing. 0.29 of
 * 100 are 29, though the product is a little less. */
export function countAllowed(fraction: number, numVideos: number): number {
  return fraction === 0 ? 0 : Math.max(1, Math.floor(Number((fraction * numVideos).toPrecision(12))));
}

/** Returns what is in a list, after writing it in normalised form if asked. Raises UserError with its bad lines. */
export async function checkList(options: ListOptions): Promise<ListReport & { warnings: string[] }> {
  const findings = new Findings();
  const report = await readList(options, findings);
  if (findings.count('error') > 0) throw new UserError(findings.describeErrors());
  return { ...report, warnings: findings.describeWarnings() };
}

/** Returns what is in a list, as far as it can be read; what is wrong with it goes to the findings, and only a list without
 * errors is written. */
export async function readList(options: ListOptions, findings: Findings): Promise<ListReport> {
  const temporary = options.writeTo === undefined ? undefined : `${options.writeTo}.${process.pid}.tmp`;
  const scan = new Scan(options, findings);
  try {
    if (await scanFile(scan, temporary)) scan.finish();
    if (scan.numErrors === 0 && temporary !== undefined && options.writeTo !== undefined)
      renameSync(temporary, options.writeTo);
    const { numLines, sizeBytes, sha256, perClass, maxLabel, found, paths, root } = scan;
    return { numLines, sizeBytes, sha256, perClass, maxLabel, found, paths, root };
  } catch (error) {
    throw options.writeTo === undefined ? error : withPath(error, options.writeTo);
  } finally {
    if (temporary !== undefined) rmSync(temporary, { force: true });
  }
}

/** Returns whether it is a list at all. */
async function scanFile(scan: Scan, temporary: string | undefined): Promise<boolean> {
  const input = openList(scan);
  if (input === undefined) return false;
  const output = temporary === undefined ? undefined : openSync(temporary, 'w');
  try {
    const presence = new Presence(scan, (num) => countAllowed(scan.options.maxMissingFraction ?? 0, num));
    for (const _ of scan.readAll(input, output)) if (scan.options.everyFile) await lookForEach(scan, presence, input);
    if (output !== undefined) fsyncSync(output);
    if (scan.options.skipFiles) return true;
    await presence.lookAtSuspects(scan.suspects);
    await presence.look(scan.clips);
    presence.finish();
    return true;
  } catch (error) {
    if (error instanceof NoList) return false;
    throw error;
  } finally {
    closeSync(input);
    if (output !== undefined) closeSync(output);
  }
}

/** Looks for the clips read since the last time. */
async function lookForEach(scan: Scan, presence: Presence, input: number): Promise<void> {
  await presence.look(scan.clips);
  scan.clips = [];
  scan.options.tell?.(presence.numLooked, scan.sizeBytes / Math.max(1, fstatSync(input).size));
}

function openList(scan: Scan): number | undefined {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(scan.options.file, 'r');
    readSync(descriptor, Buffer.alloc(1), 0, 1, 0); // a folder can be opened, not read
    return descriptor;
  } catch (error) {
    if (descriptor !== undefined) closeSync(descriptor);
    scan.fail('list-unreadable', null, explainReadError(error, null, 'a list of `<path> <label>` lines'));
    return undefined;
  }
}
