/** Checks lists of a million lines without touching files, one of 300,000 files, and once more one of 100,000 clips that were
 * looked into before, against reading them the plain way: whole processes, in turn, beside `wc -l` and a loop of `stat`.
 *
 *   coldframe bench list [--quick] [-- --lines N --files N --probed N]
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
import { buildSync } from 'esbuild';
import { findSameContent } from '../src/data/check/contents.ts';
import { Findings } from '../src/data/check/findings.ts';
import { type ComparedList, findSharedPaths } from '../src/data/leaks.ts';
import { readList } from '../src/data/list.ts';
import { ProbeCache } from '../src/data/probe/cache.ts';
import { emit, median } from './timing.ts';

const NUM_CLASSES = 400;
const VAL_SHARE = 0.1;
const NUM_FOLDERS = 300;
/** Above what is opened for being small. */
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

/** Bundles this file, as the program is (bundle.mjs): translating the sources would be a third of what is measured. */
function bundleWays(folder: string): string {
  const outfile = join(folder, 'ways.mjs');
  // Packages written for CommonJS call require; a module has none.
  const js =
    "import { createRequire as makeRequire } from 'node:module'; const require = makeRequire(import.meta.url);";
  const entryPoints = [fileURLToPath(import.meta.url)];
  buildSync({ entryPoints, outfile, bundle: true, format: 'esm', platform: 'node', target: 'node20', banner: { js } });
  return outfile;
}

/** Returns what a process costs that does nothing but this: its memory as a whole, its time without its start. */
function runWay(way: Way, files: string[]): Cost {
  const output = execFileSync(process.execPath, [waysFile, '--way', way, ...files], { encoding: 'utf8' });
  return JSON.parse(output);
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

/** Files of so many sizes, and a list of them. */
function writeFiles(folder: string, numFiles: number, numSizes: number): string {
  for (let i = 0; i < NUM_FOLDERS; i++) mkdirSync(join(folder, `class_${i}`), { recursive: true });
  const names = Array.from({ length: numFiles }, (_, i) => `class_${i % NUM_FOLDERS}/clip_${i}.mp4`);
  for (const [index, name] of names.entries()) {
    const descriptor = openSync(join(folder, name), 'w');
    writeSync(descriptor, `${HEAD}${index}`);
    ftruncateSync(descriptor, LEAST_BYTES + (index % numSizes)); // the rest takes no room
    closeSync(descriptor);
  }
  const list = join(folder, 'files.txt');
  writeFileSync(list, names.map((name, index) => `${name} ${index % NUM_FOLDERS}\n`).join(''));
  return list;
}

/** Keeps what a first check would have found in the clips: sound videos of many lengths. */
function keepProbes(list: string): void {
  const cache = new ProbeCache({ reader: 'pyav', sampling: null, limitSeconds: 20 });
  const facts = {
    ...{ num_missing: 0, width: 340, height: 256, rate: 25, codec: 'h264', container: 'mp4', rotation: 0 },
    ...{ is_variable_rate: false, mirrored: false, by_time: true },
  };
  for (const line of readFileSync(list, 'utf8').trimEnd().split('\n')) {
    const path = join(list, '..', line.slice(0, line.lastIndexOf(' ')));
    const { size, mtimeMs: mtime } = statSync(path);
    const numFrames = 100 + (size % 200);
    const about = { ...facts, num_frames: numFrames, duration_seconds: numFrames / facts.rate };
    cache.add({ path, size, mtime }, { facts: about, problem: null, damage: null });
  }
  cache.flush();
}

/** Runs `coldframe check --probe` as a user does; returns what its last events say. */
function runProbe(list: string): { seconds: number; cpu: number } {
  const program = fileURLToPath(new URL('coldframe', import.meta.url));
  const told = `${list}.told`;
  const script = '"$0" check --probe --json "$1" > "$2" && times'; // of the shell, then of what it ran
  const started = performance.now();
  const times = execFileSync('bash', ['-c', script, program, list, told], { encoding: 'utf8' });
  const seconds = (performance.now() - started) / 1000;
  const events = readFileSync(told, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  const probed = events.find(({ kind }) => kind === 'probed');
  if (probed?.num_known !== probed?.num_clips || events.length !== 2)
    throw new Error(`all of it is known, and told was ${JSON.stringify(events.slice(0, 3))}`);
  const spent = (times.split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g);
  return { seconds, cpu: [...spent].reduce((sum, [, minutes, rest]) => sum + 60 * Number(minutes) + Number(rest), 0) };
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
  const list = writeFiles(folder, numFiles, numFiles);
  const [ours, plain] = takeTurns(['files', 'stat'], [list], rounds);
  const what = `check of ${numFiles} files`;
  const isFull = numFiles === 300_000;
  emit(`${what}: seconds`, secondsOf(ours), {
    ...(isFull ? { least: 30, goal: 10 } : {}),
    ...{ cpu: medianCpu(ours), stat: median(secondsOf(plain)) },
  });
  emit(`${what}: time, ours / loop of stat`, ratios(secondsOf(ours), secondsOf(plain)));
}

/** Half of the clips have the size of another one, which a check has to tell apart by their contents. */
function compareProbed(folder: string, numFiles: number, rounds: number): void {
  process.env.XDG_CACHE_HOME = join(folder, 'cache');
  const list = writeFiles(folder, numFiles, Math.ceil((3 * numFiles) / 4));
  keepProbes(list);
  runProbe(list); // contents are read once
  const [ours, plain]: [{ seconds: number; cpu: number }[], Cost[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    ours.push(runProbe(list));
    plain.push(runWay('stat', [list]));
  }
  const what = `check --probe of ${numFiles} known clips`;
  const seconds = ours.map((one) => one.seconds);
  emit(`${what}: seconds`, seconds, {
    ...(numFiles === 100_000 ? { least: 5, goal: 2.5 } : {}),
    ...{ cpu: median(ours.map((one) => one.cpu)), stat: median(secondsOf(plain)) },
  });
  emit(`${what}: time, ours / loop of stat`, ratios(seconds, secondsOf(plain)));
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    lines: { type: 'string', default: '1000000' },
    files: { type: 'string', default: '' },
    probed: { type: 'string', default: '' },
    way: { type: 'string' },
  },
});
let waysFile = '';
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
    waysFile = bundleWays(folder);
    compareLines(folder, Number(values.lines), values.quick ? 1 : 5);
    compareFiles(folder, Number(values.files || (values.quick ? 30_000 : 300_000)), values.quick ? 1 : 3);
    mkdirSync(join(folder, 'probed'));
    compareProbed(
      join(folder, 'probed'),
      Number(values.probed || (values.quick ? 10_000 : 100_000)),
      values.quick ? 1 : 3,
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}
