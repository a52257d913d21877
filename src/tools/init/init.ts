/** `init`: lists, class names and a configuration for a folder of clips, fitted to them and to this machine. */

import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname, extname, join, relative, resolve } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { formatTable } from '../../base/format.ts';
import type { Report } from '../../base/printer.ts';
import { type Stop, stoppable } from '../../base/process/stop.ts';
import { plural, quoteWord } from '../../base/words.ts';
import { checkClips } from '../../data/check/check.ts';
import { numberClasses } from '../../data/layouts/classes.ts';
import type { LaidOut, Layout } from '../../data/layouts/layout.ts';
import { LEFT_OUT, printLeftOut, printList, takeListable, tellLeftOut, writeNew } from '../../data/layouts/write.ts';
import { type Examined, type ExaminedClip, examineClips, LIMIT_SECONDS } from './examine.ts';
import { fitSampling, fitSchedule } from './fit.ts';
import { fitMachine } from './machine.ts';
import { chooseSides, type Sided } from './sides.ts';
import { readSource } from './source.ts';
import { type Plan, writeYaml } from './write-yaml.ts';

export interface InitRequest {
  dir: string;
  output: string | undefined;
  /** What of a path says which video a clip was cut from. */
  group: string | undefined;
}

const SIDES = ['train', 'val', 'select', 'test'] as const;

export async function initialize(request: InitRequest, report: Report): Promise<void> {
  const { dir } = request;
  const name = basename(resolve(dir), extname(dir)) || 'clips';
  const output = request.output ?? `${name}-coldframe`;
  const { layout, what } = await readSource(dir);
  refusePlace(output, layout.root, name);
  report.enableProgress();
  const said = 'stopped; the same command goes on from there';
  const work = (stop: Stop) => examineClips({ ...layout, ...takeListable(layout) }, stop, report);
  const examined = await stoppable({ killsAt: 'second', said }, work);
  const { labelOf, classes } = nameClasses(layout, examined);
  const sided = chooseSides(examined.clips, examined.copies, request.group, layout.isMulti);
  refuseEmpty(sided, examined, layout.root);
  report.waiting('the machine and its weights');
  const plan = await makePlan(request, { layout, examined, sided, output, classes });
  const texts = makeFiles(plan, sided, examined, labelOf, classes);
  const config = join(output, `${name}.yaml`);
  writeNew(output, texts.set(`${name}.yaml`, writeYaml(plan, output)));
  for (const note of layout.notes) report.note(note);
  tellLeftOut(examined.leftOut, report);
  try {
    await checkAll(plan, { config, output, classes }, report);
  } finally {
    tellPlan({ plan, what, config, output, classes, examined }, report);
  }
}

interface Named {
  /** What stands in a list for the class of a clip. */
  labelOf: (clip: LaidOut) => number | string;
  classes: string[];
}

/** Labels are whole numbers, or the order of names; a file of names is written either way. */
function nameClasses(layout: Layout, { clips }: Examined): Named {
  if (clips.length === 0) return { labelOf: () => -1, classes: [] };
  if (layout.isMulti) return { labelOf: (clip) => clip.class, classes: layout.classes ?? [] };
  const { names, numClasses, labelOf } = numberClasses({ ...layout, clips }, undefined);
  return { labelOf, classes: names ?? Array.from({ length: numClasses }, (_, label) => String(label)) };
}

/** What was given stays as it is, and nothing is overwritten. */
function refusePlace(output: string, root: string, name: string): void {
  const inside = relative(realpathSync(root), resolve(realpathOf(dirname(resolve(output))), basename(output)));
  if (!inside.startsWith('..'))
    throw new UserError(
      `${showPath(output)}  lies in ${root}, which stays as it is. Give --output a folder beside it.`,
    );
  const names = [...SIDES.map((side) => `${side}.txt`), 'classes.txt', LEFT_OUT, `${name}.yaml`];
  const there = names.map((one) => join(output, one)).filter((file) => existsSync(file));
  if (there.length > 0)
    throw new UserError(
      there.map(
        (file) => `${showPath(file)}  exists, and nothing is overwritten. Give another --output, or remove it.`,
      ),
    );
}

function realpathOf(folder: string): string {
  return existsSync(folder) ? realpathSync(folder) : join(realpathOf(dirname(folder)), basename(folder));
}

function refuseEmpty({ lists }: Sided<ExaminedClip>, { leftOut }: Examined, root: string): void {
  const empty = (['train', 'val'] as const).filter((side) => (lists.get(side)?.length ?? 0) === 0);
  if (empty.length === 0) return;
  const left = leftOut.length === 0 ? '' : ` ${plural(leftOut.length, 'file')} had to be left out.`;
  throw new UserError(
    `${showPath(root)}  holds too few clips that can be read: none for ${empty.join(' and ')}.${left} Add some, of several videos each class.`,
  );
}

interface Work {
  layout: Layout;
  examined: Examined;
  sided: Sided<ExaminedClip>;
  output: string;
  classes: string[];
}

async function makePlan(request: InitRequest, { layout, examined, sided, output, classes }: Work): Promise<Plan> {
  const sampling = fitSampling(examined.clips);
  const schedule = fitSchedule(sided.lists.get('train')?.length ?? 0);
  const machine = await fitMachine({ sampling, schedule, output, numClasses: classes.length });
  const command = ['coldframe', 'init', request.dir, ...(request.output === undefined ? [] : ['--output', output])];
  if (request.group !== undefined) command.push('--group', request.group);
  const sides = SIDES.filter((side) => sided.lists.has(side));
  const numClips = Object.fromEntries(sides.map((side) => [side, sided.lists.get(side)?.length ?? 0]));
  const given = { root: layout.root, isMulti: layout.isMulti ?? false };
  const about = { command: command.map(quoteWord).join(' '), ...given, split: sided.why, numClips };
  return { ...about, sampling, schedule, ...machine };
}

function makeFiles(
  { numClips }: Plan,
  { lists }: Sided<ExaminedClip>,
  { leftOut }: Examined,
  labelOf: Named['labelOf'],
  classes: string[],
): Map<string, string> {
  const texts = new Map<string, string>();
  for (const side of SIDES.filter((one) => one in numClips)) {
    const clips = (lists.get(side) ?? []).map(({ path, start, end, ...clip }) => {
      const part = start === undefined || end === undefined ? {} : { start, end };
      return { path, label: labelOf({ path, ...clip }), ...part };
    });
    texts.set(`${side}.txt`, printList(clips));
  }
  texts.set('classes.txt', classes.map((name) => `${name}\n`).join(''));
  if (leftOut.length > 0) texts.set(LEFT_OUT, printLeftOut(leftOut));
  return texts;
}

interface Told {
  plan: Plan;
  /** What was read. */
  what: string;
  config: string;
  output: string;
  classes: string[];
  examined: Examined;
}

function tellPlan({ plan, what, config, output, classes, examined }: Told, report: Report): void {
  const { sampling, schedule, cut, backbone, numClips, root } = plan;
  const { clips, leftOut } = examined;
  const left =
    leftOut.length === 0
      ? ''
      : `; ${leftOut.length} left out, each with its reason in ${showPath(join(output, LEFT_OUT))}`;
  const counts = Object.entries(numClips).map(([side, count]) => `${side} ${count}`);
  const decisions = {
    clips: [`${what} of ${root}: ${plural(clips.length, 'clip')} in ${plural(classes.length, 'class')}${left}`],
    lists: [counts.join(', '), ...plan.split],
    frames: [sampling.why],
    backbone: [backbone.why],
    steps: [schedule.why],
    memory: [`${cut.why}, a batch in ${plural(cut.microBatches, 'part')}`],
  };
  const next = listNext(plan, config);
  if (report.json) {
    const leftCount = { num_clips: clips.length, num_classes: classes.length, num_left_out: leftOut.length };
    report.event({ kind: 'initialized', folder: output, root, config, lists: numClips, ...leftCount, decisions, next });
    return;
  }
  const rows = Object.entries(decisions).flatMap(([name, whys]) =>
    whys.map((why, index) => [index === 0 ? name : '', why]),
  );
  const written = `${showPath(config)}, its lists and classes.txt; ${showPath(root)} is as it was`;
  report.print(`\n${formatTable([...rows, ['written', written], ...next.map((command) => ['next', command])])}`);
}

function listNext({ backbone }: Plan, config: string): string[] {
  const train = `coldframe train --config ${quoteWord(config)}`;
  return backbone.fetch === null ? [train] : [backbone.fetch, train];
}

interface Written {
  config: string;
  output: string;
  classes: string[];
}

/** The doctor's word on what was written; weights that are yet to be fetched are told, and keep nothing from being looked at. */
async function checkAll({ numClips }: Plan, { config, output }: Written, report: Report): Promise<void> {
  await checkClips(
    {
      lists: Object.keys(numClips).map((side) => join(output, `${side}.txt`)),
      config,
      ...{ root: undefined, numClasses: undefined, writeClean: undefined },
      probeSeconds: LIMIT_SECONDS,
      readTrained: () => null, // nothing is begun from a checkpoint
    },
    report,
  );
}
