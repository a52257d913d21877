/** Checks lists of a million lines without touching files, and one of 300,000 files, against reading them the plain way:
 * whole processes, in turn, beside `wc -l` and a loop of `stat`.
 *
 *   coldframe bench list [--quick] [-- --lines N --files N]
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  createReadStream,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { findSameContent } from '../src/data/check/contents.ts';
import { Findings } from '../src/data/check/findings.ts';
import { type ComparedList, findSharedPaths } from '../src/data/leaks.ts';
import { readList } from '../src/data/list.ts';
import { emit, median } from './timing.ts';

const NUM_CLASSES = 400;
const VAL_SHARE = 0.1;
const NUM_FOLDERS = 300;
/** Each file has a size of its own, above what is opened for being small: existence and size are all there is to see. */
const LEAST_BYTES = 20_000;
/** What a video may begin with. */
const HEAD = '\0\0\0\x18ftypmp42';
const WHY = 'what is trained on says little of new clips';

const WAYS = { ours: checkOurs, plain: checkPlainly, files: checkFiles, stat: statPlainly };
type Way = keyof typeof WAYS;
interface Cost {
  seconds: number;
  /** Of the processor: what a busy machine changes less. */
  cpu: number;
  bytes: number;
}

/** Both lists with every check that touches no file: lines, labels, duplicates, conflicts, leaks. */
async function checkOurs(files: string[]): Promise<number> {
  const findings = new Findings();
  const lists: ComparedList[] = [];
  for (const file of files) {
    const options = { file, root: '/clips', numClasses: NUM_CLASSES, skipFiles: true };
    const list = { ...(await readList(options, findings)), file };
    for (const other of lists) findSharedPaths(list, other, WHY, findings);
    lists.push(list);
  }
  if (findings.groups.length > 0)
    throw new Error(`the lists are right, and found was ${JSON.stringify(findings.groups[0])}`);
  return lists.reduce((sum, { numLines }) => sum + numLines, 0);
}

/** A line at a time, split, an object each, the same checks. */
async function checkPlainly(files: string[]): Promise<number> {
  const seen = new Map<string, number>();
  const clips: { path: string; label: number }[] = [];
  for (const file of files) {
    for await (const line of createInterface({ input: createReadStream(file) })) {
      const words = line.trim().split(/\s+/);
      const label = Number(words.pop());
      const path = join('/clips', words.join(' '));
      if (!Number.isInteger(label) || label < 0 || label >= NUM_CLASSES) throw new Error(`bad label: ${line}`);
      if (seen.has(path)) process.stderr.write(`twice: ${path}\n`);
      seen.set(path, label);
      clips.push({ path, label });
    }
  }
  return clips.length;
}

/** As `check` does: each file by existence and size, and those of one size by content. */
async function checkFiles([file = '']: string[]): Promise<number> {
  const findings = new Findings();
  const list = await readList({ file, root: null, numClasses: NUM_FOLDERS, everyFile: true }, findings);
  await findSameContent([{ ...list, file }], findings, { why: WHY });
  if (findings.groups.length > 0)
    throw new Error(`the files are right, and found was ${JSON.stringify(findings.groups[0])}`);
  return list.found.length;
}

async function statPlainly([file = '']: string[]): Promise<number> {
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
  return lines.filter((line) => statSync(join(file, '..', line.slice(0, line.lastIndexOf(' ')))).size > 0).length;
}

/** Returns what a process costs that does nothing but this: its memory as a whole, its time without its start. */
function runWay(way: Way, files: string[]): Cost {
  const args = [...process.execArgv, fileURLToPath(import.meta.url), '--way', way, ...files];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }));
}

function writeLists(folder: string, numLines: number): string[] {
  const lines = Array.from({ length: numLines }, (_, i) => {
    const id = (i * 7919) % 1_000_003;
    return `class_${i % NUM_CLASSES}/clip_${id}_000123_000133.mp4 ${i % NUM_CLASSES}\n`;
  });
  const numVal = Math.round(numLines * VAL_SHARE);
  const files = [join(folder, 'train.txt'), join(folder, 'val.txt')];
  writeFileSync(files[0] ?? '', lines.slice(numVal).join(''));
  writeFileSync(files[1] ?? '', lines.slice(0, numVal).join(''));
  return files;
}

function writeFiles(folder: string, numFiles: number): string {
  for (let i = 0; i < NUM_FOLDERS; i++) mkdirSync(join(folder, `class_${i}`));
  const names = Array.from({ length: numFiles }, (_, i) => `class_${i % NUM_FOLDERS}/clip_${i}.mp4`);
  for (const [index, name] of names.entries()) {
    const descriptor = openSync(join(folder, name), 'w');
    writeSync(descriptor, HEAD);
    ftruncateSync(descriptor, LEAST_BYTES + index); // the rest takes no room
    closeSync(descriptor);
  }
  const list = join(folder, 'files.txt');
  writeFileSync(list, names.map((name, index) => `${name} ${index % NUM_FOLDERS}\n`).join(''));
  return list;
}

/** Runs the ways in turn, each as often as asked. */
function takeTurns(ways: Way[], files: string[], rounds: number): Cost[][] {
  const costs: Cost[][] = ways.map(() => []);
  for (let round = 0; round < rounds; round++) {
    const turns = ways.map((_, index) => (index + round) % ways.length);
    for (const index of turns) costs[index]?.push(runWay(ways[index] as Way, files));
  }
  return costs;
}

const secondsOf = (costs: Cost[] = []): number[] => costs.map(({ seconds }) => seconds);
const medianCpu = (costs: Cost[] = []): number => median(costs.map(({ cpu }) => cpu));
const megabytesOf = (costs: Cost[] = []): number[] => costs.map(({ bytes }) => bytes / 1e6);
const ratios = (above: number[], below: number[]): number[] => above.map((one, index) => one / (below[index] ?? 0));

function timeWc(files: string[]): number {
  const started = performance.now();
  execFileSync('wc', ['-l', ...files]);
  return (performance.now() - started) / 1000;
}

function compareLines(folder: string, numLines: number, rounds: number): void {
  const files = writeLists(folder, numLines);
  const [ours, plain] = takeTurns(['ours', 'plain'], files, rounds);
  const wc = median(Array.from({ length: rounds }, () => timeWc(files)));
  const what = `check of ${numLines} lines in two lists`;
  const isFull = numLines === 1_000_000;
  emit(`${what}: seconds`, secondsOf(ours), {
    ...(isFull ? { least: 1.2, goal: 1 } : {}),
    ...{ cpu: medianCpu(ours), plain: median(secondsOf(plain)), plain_cpu: medianCpu(plain), wc },
  });
  emit(`${what}: peak memory of the process, MB`, megabytesOf(ours), {
    ...(isFull ? { least: 110, goal: 100 } : {}),
    plain: median(megabytesOf(plain)),
  });
  emit(`${what}: time, plain / ours`, ratios(secondsOf(plain), secondsOf(ours)));
  emit(
    `${what}: time, ours / wc -l`,
    secondsOf(ours).map((seconds) => seconds / wc),
  );
  emit(`${what}: memory, plain / ours`, ratios(megabytesOf(plain), megabytesOf(ours)));
}

function compareFiles(folder: string, numFiles: number, rounds: number): void {
  const list = writeFiles(folder, numFiles);
  const [ours, plain] = takeTurns(['files', 'stat'], [list], rounds);
  const what = `check of ${numFiles} files`;
  const isFull = numFiles === 300_000;
  emit(`${what}: seconds`, secondsOf(ours), {
    ...(isFull ? { least: 30, goal: 10 } : {}),
    ...{ cpu: medianCpu(ours), stat: median(secondsOf(plain)) },
  });
  emit(`${what}: time, ours / loop of stat`, ratios(secondsOf(ours), secondsOf(plain)));
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    lines: { type: 'string', default: '1000000' },
    files: { type: 'string', default: '' },
    way: { type: 'string' },
  },
});
const isWay = (way: string | undefined): way is Way => way !== undefined && way in WAYS;
if (isWay(values.way)) {
  const started = performance.now();
  const before = process.cpuUsage();
  await WAYS[values.way](positionals);
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(before);
  const cost: Cost = { seconds, cpu: (user + system) / 1e6, bytes: process.resourceUsage().maxRSS * 1024 };
  process.stdout.write(JSON.stringify(cost));
} else {
  const folder = mkdtempSync(join(tmpdir(), 'bench-list-'));
  try {
    compareLines(folder, Number(values.lines), values.quick ? 1 : 5);
    compareFiles(folder, Number(values.files || (values.quick ? 30_000 : 300_000)), values.quick ? 1 : 3);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
