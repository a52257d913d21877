/** Checks a list of a million lines without touching files, against reading it the plain way: whole processes, in turn.
 *
 *   coldframe bench list [--quick] [-- --lines N]
 */
import { execFileSync } from 'node:child_process';
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { checkList } from '../src/data/list.ts';
import { emit, median } from './timing.ts';

const NUM_CLASSES = 400;
const WAYS = { ours: checkOurs, plain: checkPlainly };
type Way = keyof typeof WAYS;
interface Cost {
  seconds: number;
  bytes: number;
}

async function checkOurs(file: string): Promise<number> {
  return (await checkList({ file, root: '/clips', numClasses: NUM_CLASSES, skipFiles: true })).numLines;
}

/** A line at a time, split, an object each, the same checks. */
async function checkPlainly(file: string): Promise<number> {
  const clips: { path: string; label: number }[] = [];
  const seen = new Set<string>();
  for await (const line of createInterface({ input: createReadStream(file) })) {
    const words = line.trim().split(/\s+/);
    const label = Number(words.pop());
    const path = join('/clips', words.join(' '));
    if (!Number.isInteger(label) || label < 0 || label >= NUM_CLASSES) throw new Error(`bad label: ${line}`);
    if (seen.has(path)) process.stderr.write(`twice: ${path}\n`);
    seen.add(path);
    clips.push({ path, label });
  }
  return clips.length;
}

/** Returns what a whole process costs that does nothing but this. */
function runWay(way: Way, file: string): Cost {
  const started = performance.now();
  const args = [...process.execArgv, fileURLToPath(import.meta.url), '--way', way, '--list', file];
  const said = execFileSync(process.execPath, args, { encoding: 'utf8' });
  return { seconds: (performance.now() - started) / 1000, bytes: Number(said) };
}

function writeList(file: string, numLines: number): void {
  const lines = Array.from({ length: numLines }, (_, i) => {
    const id = (i * 7919) % 1_000_003;
    return `class_${i % NUM_CLASSES}/clip_${id}_000123_000133.mp4 ${i % NUM_CLASSES}\n`;
  });
  writeFileSync(file, lines.join(''));
}

function compare(numLines: number, rounds: number): void {
  const folder = mkdtempSync(join(tmpdir(), 'bench-list-'));
  try {
    const file = join(folder, 'list.txt');
    writeList(file, numLines);
    const costs: Record<Way, Cost[]> = { ours: [], plain: [] };
    for (let round = 0; round < rounds; round++) {
      const ways: Way[] = round % 2 ? ['plain', 'ours'] : ['ours', 'plain'];
      for (const way of ways) costs[way].push(runWay(way, file));
    }
    tell(numLines, costs);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function tell(numLines: number, { ours, plain }: Record<Way, Cost[]>): void {
  const megabytes = (costs: Cost[]): number[] => costs.map(({ bytes }) => bytes / 1e6);
  const seconds = (costs: Cost[]): number[] => costs.map((cost) => cost.seconds);
  const ratios = (of: (costs: Cost[]) => number[]): number[] => of(plain).map((p, i) => p / (of(ours)[i] ?? 0));
  const what = `check of ${numLines} lines`;
  const isFull = numLines === 1_000_000;
  emit(`${what}: seconds of the process`, seconds(ours), {
    ...(isFull ? { least: 4, goal: 1.5 } : {}),
    plain: median(seconds(plain)),
  });
  emit(`${what}: peak memory of the process, MB`, megabytes(ours), {
    ...(isFull ? { least: 200, goal: 100 } : {}),
    plain: median(megabytes(plain)),
  });
  emit(`${what}: time, plain / ours`, ratios(seconds));
  emit(`${what}: memory, plain / ours`, ratios(megabytes));
}

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    lines: { type: 'string', default: '1000000' },
    way: { type: 'string' },
    list: { type: 'string', default: '' },
  },
});
if (values.way === 'ours' || values.way === 'plain') {
  await WAYS[values.way](values.list);
  process.stdout.write(String(process.resourceUsage().maxRSS * 1024));
} else {
  compare(Number(values.lines), values.quick ? 1 : 5);
}
