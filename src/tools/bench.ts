/** `bench`: runs the bench programs of scripts/, shows their figures and keeps them with the machine they are of. */

import { existsSync } from 'node:fs';
import { arch, availableParallelism, cpus, loadavg, totalmem } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { z } from 'zod';
import { RuntimeFailure, showPath, UserError } from '../base/errors.ts';
import { writeWhole } from '../base/files.ts';
import { formatBytes } from '../base/format.ts';
import { PROJECT } from '../base/paths.ts';
import type { Report } from '../base/printer.ts';
import { readCommit } from '../data/checks.ts';
import { BENCHES } from './bench-names.ts';

const PYTHON = join(PROJECT, 'py', 'python.sh'); // the environment that the runtime has
const TSX = join(PROJECT, 'node_modules', 'tsx', 'dist', 'loader.mjs');
const NUM_LINES = 40; // of a failed program's output
const BUSY = 0.5; // processes of others that run: from here on figures of a small machine suffer

export interface BenchRequest {
  /** One of BENCHES, or all. */
  name: string;
  quick: boolean;
  /** Options of the program itself. */
  args: string[];
  /** Where the programs are. */
  programs?: string;
  /** Where the figures go. */
  outDir?: string;
}

/** One line of a program: a figure, or why there is none (`skipped`). */
const figureSchema = z.looseObject({
  name: z.string(),
  ratio: z.number().nullable().optional(),
  low: z.number().optional(),
  high: z.number().optional(),
  /** What is asked of it; where the goal is below it, smaller is better and this is the most. */
  least: z.number().nullable().optional(),
  goal: z.number().nullable().optional(),
  /** With `least`: the figure must lie between the two. */
  most: z.number().nullable().optional(),
  skipped: z.string().optional(),
});
type Figure = z.infer<typeof figureSchema>;
type KeptFigure = Figure & { bench: string; holds: boolean | null };

/** Runs one bench program or all there are. A figure that misses its goal is a result; a program that fails is an error,
 * thrown as RuntimeFailure after the others have run. */
export async function bench(request: BenchRequest, report: Report): Promise<void> {
  const programs = findPrograms(request);
  const load = loadavg()[0] ?? 0;
  if (load > BUSY)
    report.note(`The machine is busy (load ${load.toFixed(2)}): ratios within a run hold, seconds less so.`);
  const date = new Date().toISOString();
  const machine = { date, load_before: load, ...(await describeMachine()) };
  const file = join(request.outDir ?? join('runs', 'bench'), `${date.slice(0, 19).replaceAll(':', '-')}.json`);
  const figures: KeptFigure[] = [];
  const failures: RuntimeFailure[] = [];
  if (!report.json) report.print(describeMachineLine(machine));
  for (const [name, program] of programs) {
    if (!report.json) report.print(`\n${HEADING(name)}`);
    try {
      for await (const figure of runProgram(name, program, request)) {
        figures.push(figure);
        show(figure, report);
      }
    } catch (error) {
      if (!(error instanceof RuntimeFailure)) throw error;
      if (programs.length > 1) report.note(error.message);
      failures.push(error);
    }
    keep(file, { ...machine, figures });
  }
  report.note(`Kept in ${showPath(file)}`);
  const [first] = failures;
  if (first !== undefined) throw first;
}

function findPrograms({ name, programs = join(PROJECT, 'scripts') }: BenchRequest): [string, string][] {
  const find = (one: string) =>
    ['py', 'ts'].map((ending) => join(programs, `bench_${one}.${ending}`)).find((path) => existsSync(path));
  const wanted = name === 'all' ? BENCHES : BENCHES.filter((one) => one === name);
  const found = wanted.flatMap((one): [string, string][] => {
    const program = find(one);
    return program === undefined ? [] : [[one, program]];
  });
  if (found.length === 0) throw new UserError(`bench  ${name} is no bench. Choose one of ${BENCHES.join(', ')}, all.`);
  return found;
}

async function* runProgram(name: string, program: string, request: BenchRequest): AsyncGenerator<KeptFigure> {
  const [command, ...before] = program.endsWith('.py')
    ? [PYTHON]
    : [process.execPath, '--disable-warning=ExperimentalWarning', '--import', `file://${TSX}`];
  const args = [...before, program, ...(request.quick ? ['--quick'] : []), ...request.args];
  // The log of a runtime is no place for figures: without it the program writes here. Killed with this process.
  const child = execa(command ?? PYTHON, args, {
    ...{ all: true, reject: false, buffer: false, stdin: 'ignore', killSignal: 'SIGKILL' },
    env: { COLDFRAME_LOG: '' },
  });
  const others: string[] = [];
  for await (const line of child.iterable({ from: 'all' })) {
    const figure = parseFigure(String(line));
    if (figure === undefined) others.push(String(line));
    else yield { ...figure, bench: name, holds: judge(figure) };
    others.splice(0, others.length - NUM_LINES);
  }
  const ended = await child;
  if (ended.failed) throw new RuntimeFailure(`bench ${name}  ${ended.shortMessage}`, { lines: others });
}

function parseFigure(line: string): Figure | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return figureSchema.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined; // Python writes NaN, or it is no figure at all
  }
}

/** Returns whether a figure is what is asked of it; null where nothing is. */
export function judge({ ratio, least, goal, most }: Figure): boolean | null {
  if (ratio == null || (least == null && most == null)) return null;
  if (most != null) return ratio <= most && ratio >= (least ?? Number.NEGATIVE_INFINITY);
  const limit = least ?? 0;
  return goal != null && goal < limit ? ratio <= limit : ratio >= limit;
}

const WIDTHS = [62, 9, 19, 12, 8] as const;
const row = (cells: string[]): string => cells.map((cell, i) => cell.padEnd(WIDTHS[i] ?? 0)).join(' ');
const HEADING = (name: string): string => row([name, 'figure', 'lowest..highest', 'asked', 'goal', 'holds']);
const shorten = (value: number | null | undefined): string => (value == null ? '' : String(+value.toPrecision(3)));

function show(figure: KeptFigure, report: Report): void {
  if (report.json) {
    report.event({ kind: 'bench', ...figure });
    return;
  }
  const { name, ratio, low, high, goal, holds } = figure;
  const spread = low === undefined || high === undefined ? '' : `${shorten(low)}..${shorten(high)}`;
  const verdict = holds === null ? (figure.skipped ?? '') : holds ? 'yes' : 'NO';
  report.print(row([name, shorten(ratio), spread, describeAsked(figure), shorten(goal), verdict]).trimEnd());
}

function describeAsked({ least, goal, most }: Figure): string {
  if (most != null) return least == null ? `<= ${most}` : `${least}..${most}`;
  if (least == null) return '';
  return goal != null && goal < least ? `<= ${least}` : `>= ${least}`;
}

interface Machine {
  cpu: string;
  cores: number;
  memory_bytes: number;
  node: string;
  torch: string | null;
  commit: string | null;
}

async function describeMachine(): Promise<Machine> {
  const code = "import importlib.metadata as m; print(m.version('torch'))";
  const { failed, stdout } = await execa(PYTHON, ['-c', code], { reject: false, env: { COLDFRAME_LOG: '' } });
  return {
    cpu: cpus()[0]?.model ?? arch(),
    cores: availableParallelism(),
    memory_bytes: totalmem(),
    node: process.version,
    torch: failed ? null : stdout.trim(),
    commit: readCommit(),
  };
}

const describeMachineLine = ({ cpu, cores, memory_bytes, node, torch }: Machine): string =>
  `${cpu}, ${cores} cores, ${formatBytes(memory_bytes)}; node ${node}, torch ${torch ?? 'is missing'}`;

function keep(file: string, result: object): void {
  writeWhole(file, `${JSON.stringify(result, null, 2)}\n`);
}
