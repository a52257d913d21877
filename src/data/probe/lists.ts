/** `check --probe`: looks into every clip of lists, with the reader and the sampling that they are for. */
import { resolve } from 'node:path';
import { showPath } from '../../base/errors.ts';
import type { Report } from '../../base/printer.ts';
import { stoppable } from '../../base/process/stop.ts';
import { plural } from '../../base/words.ts';
import type { Config } from '../../config/schema.ts';
import type { Sampling } from '../../runtime/probe-replies.ts';
import type { Findings } from '../check/findings.ts';
import { type CheckedLists, rootOf, type Which } from '../checks.ts';
import type { ListReport } from '../list.ts';
import { MAX_SHOWN, refuseMany } from './bad-videos.ts';
import type { ProbeRules } from './cache.ts';
import { type ListedVideo, ProbeFindings } from './findings.ts';
import { describeUnkept } from './kept.ts';
import { findKnown, type KnownLists, keepKnown } from './known.ts';
import { probeClips } from './probe.ts';
import { describeDistribution, Tally } from './tables.ts';

/** A list whose clips are there, as far as they are not found to be bad already. */
export interface ProbedSide extends Pick<ListReport, 'found' | 'numLines' | 'sha256'> {
  options: { file: string; root: string | null; maxMissingFraction?: number };
}

export interface ProbeOptions {
  /** null: any frame of a video may be asked for. */
  config: Config | null;
  limitSeconds: number;
  /** Probes clips in another way; what it does not keep is probed here. */
  probeBefore: ((lists: { rules: ProbeRules; clips: ListedVideo[] }[]) => Promise<void>) | undefined;
}

/** Adds what is found in the clips of the lists to the findings, and tells how they are distributed. Throws Interrupted when
 * asked to stop: the same command goes on. */
export async function probeLists(
  sides: ProbedSide[],
  { config, limitSeconds, probeBefore }: ProbeOptions,
  findings: Findings,
  report: Report,
): Promise<void> {
  const rulesOf = ({ options }: ProbedSide): ProbeRules => {
    const sampling = config === null ? null : chooseSampling(config, options.file);
    return { reader: config?.data.reader ?? 'pyav', sampling, limitSeconds };
  };
  await probeBefore?.(sides.map((side) => ({ rules: rulesOf(side), clips: side.found })));
  const said = 'stopped; the same command goes on from there';
  await stoppable({ killsAt: 'second', said }, async (stop) => {
    for (const side of sides) {
      const { options, found, numLines, sha256 } = side;
      const started = performance.now();
      const rules = rulesOf(side);
      const { sampling } = rules;
      const { file, maxMissingFraction = 0 } = options;
      const probed = { file, numLines, numAbsent: numLines - found.length, maxMissingFraction };
      const collected = new ProbeFindings(probed, sampling, findings);
      const tally = new Tally();
      const { numKnown, problem } = await probeClips<ListedVideo>({
        clips: found,
        rules,
        stop,
        tell: (video, probe) => {
          collected.take(video, probe);
          if (probe.facts !== null) tally.add(probe.facts);
        },
        progress: (done, total) => report.progress(`probe ${showPath(file)}`, done, total),
      });
      report.endProgress();
      collected.finish();
      const distribution = tally.describe(sampling);
      const known = { file, sha256, root: options.root };
      const unkept = problem ?? keepKnown(known, rules, collected.listBad(), distribution);
      if (unkept !== undefined) report.note(describeUnkept(unkept));
      const seconds = (performance.now() - started) / 1000;
      const counts = { list: file, num_clips: found.length, num_known: numKnown, seconds };
      if (report.json) report.event({ kind: 'probed', ...counts, ...distribution });
      else {
        const before = numKnown === 0 ? '' : `, ${numKnown} of them from what was found before`;
        const head = `${showPath(file)}  ${plural(found.length, 'clip')} looked into${before}, ${seconds.toFixed(1)} s`;
        report.print(`${head}\n${describeDistribution(distribution)}\n`);
      }
    }
  });
}

/** Which frames a list of a configuration is asked for: of the training list those of a training, else those of its views. */
export function chooseSampling({ data, eval: views }: Config, list: string): Sampling {
  const which: Which = data.train_list !== null && resolve(list) === resolve(data.train_list) ? 'train' : 'val';
  return {
    num_frames: data.num_frames,
    stride: data.sampling === 'tsn' ? null : data.stride,
    repeat_last: data.short_clips === 'last_frame',
    num_views: which === 'train' ? null : views.temporal_views,
  };
}

/** Returns what is known of the lists of a configuration from a probe of just these; nothing where features take the place
 * of videos. */
export function findKnownLists(config: Config, lists: CheckedLists): KnownLists {
  const known: KnownLists = {};
  if (config.data.features !== null || config.data.dummy) return known;
  for (const which of ['train', 'val'] as const) {
    const list = lists[which];
    if (list === undefined) continue;
    const rules = { reader: config.data.reader, sampling: chooseSampling(config, list.file), limitSeconds: 0 };
    const found = findKnown({ ...list, root: rootOf(config.data, which) }, rules);
    if (found !== undefined) known[which] = found;
  }
  return known;
}

/** Warns of clips that a probe of just these lists found to be bad. Throws UserError where more of those to train on are known
 * than may be. */
export function tellKnown(config: Config, lists: CheckedLists, warn: (text: string) => void): void {
  const known = findKnownLists(config, lists);
  for (const which of ['train', 'val'] as const) {
    const bad = known[which]?.bad ?? [];
    const list = lists[which];
    if (bad.length === 0 || list === undefined) continue;
    const place = { file: list.file, root: rootOf(config.data, which) };
    const limit = which === 'train' ? config.data : null;
    const reasons = new Map(bad.map(({ path, reason }) => [path, reason]));
    refuseMany(reasons, list.numLines, { limit, done: 'read', lists: [place] });
    const what = which === 'train' ? 'It will be skipped.' : 'It will count as an error.';
    for (const { line, path, reason } of bad.slice(0, MAX_SHOWN))
      warn(`${showPath(list.file)}:${line}  ${path} ${reason}. ${what}`);
    const more = bad.length - MAX_SHOWN;
    if (more > 0) warn(`${showPath(list.file)}  and ${plural(more, 'more video')} that cannot be read.`);
  }
}
