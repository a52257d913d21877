/** Checks lists of clips: what scan.ts finds in a list, and whether its clips are there. */
import { closeSync, fsyncSync, openSync, readSync, renameSync, rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { explainReadError, UserError } from '../base/errors.ts';
import { withPath } from '../base/files.ts';
import { type Fault, isFault, lookFor, lookForAll } from './check/files.ts';
import { Findings } from './check/findings.ts';
import { HASH_RULE, type ListOptions, type ListReport, NoList, Scan } from './scan.ts';

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
    if (scanFile(scan, temporary)) {
      if (!options.skipFiles) await lookForClips(scan);
      scan.finish();
    }
    if (scan.numErrors === 0 && temporary !== undefined && options.writeTo !== undefined)
      renameSync(temporary, options.writeTo);
    const { numLines, sizeBytes, sha256, perClass, maxLabel, found, paths } = scan;
    return { numLines, sizeBytes, sha256, perClass, maxLabel, found, paths };
  } catch (error) {
    throw options.writeTo === undefined ? error : withPath(error, options.writeTo);
  } finally {
    if (temporary !== undefined) rmSync(temporary, { force: true });
  }
}

/** Returns whether it is a list at all. */
function scanFile(scan: Scan, temporary: string | undefined): boolean {
  const input = openList(scan);
  if (input === undefined) return false;
  const output = temporary === undefined ? undefined : openSync(temporary, 'w');
  try {
    scan.readAll(input, output);
    if (output !== undefined) fsyncSync(output);
    return true;
  } catch (error) {
    if (error instanceof NoList) return false;
    throw error;
  } finally {
    closeSync(input);
    if (output !== undefined) closeSync(output);
  }
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

interface Absent {
  line: number;
  path: string;
  text: string;
  code: Fault['code'];
}

/** Notes each clip that is not there; if none is, the root is at fault, or the only clip. */
async function lookForClips(scan: Scan): Promise<void> {
  const { clips, suspects, root } = scan;
  const absent: Absent[] = [];
  await lookForAll([...clips, ...suspects], async ({ path: listed, line }, index) => {
    const path = resolve(root, listed);
    const seen = await lookFor(path);
    const isSuspect = index >= clips.length;
    if (isFault(seen)) {
      const rule = listed.startsWith('#') ? ` (${HASH_RULE})` : '';
      if (!isSuspect) absent.push({ line, path, text: `${path} ${seen.text}${rule}`, code: seen.code });
    } else if (!isSuspect) scan.found.push({ path, line, ...seen });
    else {
      const advice = `Write \`./${listed}\` if it is a clip; else begin the comment with \`## \``;
      scan.fail('comment', line, `is a comment, and ${path} exists. ${advice}.`, { path });
    }
  });
  for (const list of [absent, scan.found]) list.sort((a, b) => a.line - b.line);
  tellAbsent(scan, absent);
}

function tellAbsent(scan: Scan, absent: Absent[]): void {
  const { clips, root, options } = scan;
  const [first] = absent;
  if (first !== undefined && absent.length === clips.length) {
    const which =
      clips.length === 1 ? 'the only clip is not there' : `none of the ${clips.length} clips looked for is there`;
    const message = `${which}. The data root is ${root}; first ${first.text}.`;
    scan.fail(first.code, first.line, message, { path: first.path });
    return;
  }
  const isAllowed = absent.length <= countAllowed(options.maxMissingFraction ?? 0, clips.length);
  for (const { line, path, text, code } of absent) {
    if (isAllowed) scan.warn(code, line, `${text}. It will be skipped.`, { path });
    else scan.fail(code, line, `${text}.`, { path });
  }
}
