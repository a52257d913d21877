/** What stands in one list more than once: a path, or the same part of it. */
import { plural } from '../base/words.ts';
import type { Findings } from './check/findings.ts';
import { pathAt, readPaths } from './check/listed-paths.ts';
import { showLabels } from './line.ts';
import type { Pair, SeenPaths } from './seen-paths.ts';

interface RepeatedIn {
  file: string;
  root: string;
  paths: SeenPaths;
}

/** Adds paths that are listed twice to the findings, and those whose labels differ. */
export function findRepeated(list: RepeatedIn, findings: Findings): void {
  const { paths, file } = list;
  const [noun, about] = [
    paths.hasParts ? 'part' : 'path',
    { severity: 'warning', list: file, other_list: file } as const,
  ];
  const pairs: Pair[] = [];
  const { numPaths, first, numConflicts, firstConflict } = paths.findRepeated((pair) => pairs.push(pair));
  // The later line of a pair is what is found.
  const pathOf = readPaths(list, findings.isTold ? pairs.map(({ lines }) => lines[1]) : []);
  for (const { lines, labels } of pairs) {
    const [before, line] = lines;
    const [known, label] = labels;
    const found = { ...about, line, ...pathAt(pathOf, line), label, other_line: before };
    const message = `the same ${noun} is on line ${before}. A clip needs one line.`;
    findings.add({ code: 'duplicate-path', message, ...found });
    if (known === label) continue;
    const differing = `label ${showLabels(label)}, and ${showLabels(known)} on line ${before} for the same ${noun}. Keep the right one.`;
    findings.add({ code: 'label-conflict', message: differing, ...found });
  }
  if (numPaths > 0 && first !== null) {
    const where = `the first on lines ${first.lines[0]} and ${first.lines[1]}`;
    const summary = `${plural(numPaths, noun)} listed more than once, ${where}`;
    findings.summarize({ code: 'duplicate-path', ...about }, summary);
  }
  if (numConflicts > 0 && firstConflict !== null) {
    const summary = `${plural(numConflicts, noun)} with two labels: ${describeConflict(firstConflict)}`;
    findings.summarize({ code: 'label-conflict', ...about }, summary);
  }
}

function describeConflict({ lines, labels }: Pair): string {
  return `label ${showLabels(labels[0])} on line ${lines[0]}, ${showLabels(labels[1])} on line ${lines[1]}`;
}
