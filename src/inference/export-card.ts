/** The card of an exported model: what it takes and gives, what it was made of, and what it was found to be worth. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { writeWhole } from '../base/files.ts';
import { formatBytes, percent } from '../base/format.ts';
import { findInterval, showInterval } from '../base/intervals.ts';
import { keepLine, plural } from '../base/words.ts';
import type { Config } from '../config/load.ts';
import type { Compared, Exported } from '../runtime/replies.ts';

/** What the file itself knows: its metadata `coldframe`, as JSON. */
export interface ExportAbout {
  input: string;
  output: string;
  num_frames: number;
  /** null: frames from equal parts of the video. */
  stride: number | null;
  size: number;
  labels: 'single' | 'multi';
  classes: string[];
  step: number;
  checkpoint: string;
  backbone: string;
  backbone_sha256: string;
}

export type Precision = 'fp32' | 'fp16' | 'int8';

export interface Card {
  format: 'onnx' | 'torch';
  precision: Precision;
  /** The file. */
  output: string;
  about: ExportAbout;
  exported: Exported;
  compared: Compared;
  checkpoint: string;
  trial: string;
  config: Config;
}

/** Writes STEM.md. */
export function writeCard(card: Card, stem: string): void {
  const { about, config } = card;
  const name = basename(card.output);
  const example = card.format === 'onnx' ? [`    python ${basename(stem)}.py VIDEO`, ''] : [];
  const lines = [
    `# ${name}`,
    '',
    `A video classifier of ${plural(about.classes.length, 'class')}, exported by coldframe: ${describeForm(card)}.`,
    '',
    ...example,
    '## What it takes and gives',
    '',
    `- input \`${about.input}\``,
    `- output \`${about.output}\`, ${about.labels === 'single' ? 'which sum to one' : 'of each class by itself; `thresholds` of the metadata say from where on a class is there'}`,
    `- ${about.num_frames} frames a clip${about.stride === null ? ', from the middles of equal parts of the video' : `, every ${about.stride}th from the middle of the video`}`,
    `- frames upright, the short side resized to ${about.size} pixels (bilinear, pixel centres at half), the middle ${about.size} x ${about.size} cut out; the model normalises the colours itself`,
    '',
    '## What it was found to be worth',
    '',
    ...describeResults(card),
    '',
    '## What it was made of',
    '',
    `- checkpoint: step ${about.step}, trial ${card.trial}`,
    `- backbone: ${about.backbone}, SHA-256 of its weights (in float32) ${about.backbone_sha256}`,
    `- decoder: ${config.model.decoder.kind}`,
    ...Object.entries(card.exported.sha256).map(([file, hash]) => `- SHA-256 of ${file}: ${hash}`),
    `- licence: that of the backbone's weights holds on, which coldframe does not know; ${config.model.backbone.weights === 'random' ? 'these are random' : `they came from ${basename(config.model.backbone.weights)}`}. OpenAI published CLIP's under the MIT licence.`,
    '',
    '## Classes',
    '',
    '| label | class |',
    '|---|---|',
    ...about.classes.map((one, label) => `| ${label} | ${keepLine(one).replaceAll('|', '\\|')} |`),
    '',
  ];
  writeWhole(`${stem}.md`, lines.join('\n'));
}

function describeForm({ format, precision, exported: { opset, size_bytes } }: Card): string {
  const form = format === 'onnx' ? `ONNX, opset ${opset}` : 'a torch.export archive';
  const stored = { fp32: 'float32', fp16: 'float16 inside', int8: 'matrices in 8 bits' }[precision];
  return `${form}, ${stored}, ${formatBytes(size_bytes)}`;
}

function describeResults({ about, precision, compared, trial, checkpoint }: Card): string[] {
  const { largest_difference, agreement, num_total, num_bad, is_noise, top1 } = compared;
  const on = is_noise ? `${plural(num_total, 'clip')} of noise` : plural(num_total - num_bad, 'video');
  const against = `- against PyTorch on ${on}: the largest difference of a probability is ${largest_difference.toExponential(1)}, the same class is first in ${percent(agreement)}`;
  const own = top1 === null ? [] : [`- top-1 on these: ${percent(top1[1])}, in PyTorch ${percent(top1[0])}`];
  return [...readEvaluations(checkpoint, about.step, trial), against, ...own, `- precision: ${precision}`];
}

/** What the run's evaluations of this step found. */
function readEvaluations(checkpoint: string, step: number, trial: string): string[] {
  const folder = join(dirname(dirname(checkpoint)), 'evaluations');
  if (!existsSync(folder)) return [];
  const of = readdirSync(folder).filter((name) => name === `step-${step}` || name.startsWith(`step-${step}-`));
  return of.sort().flatMap((name) => {
    const found = readResult(join(folder, name, 'result.json'), trial);
    if (found === undefined) return [];
    const { top1, top5, num_videos, views, list } = found;
    const interval = showInterval(findInterval(top1, num_videos));
    return `- top-1 ${percent(top1)} (95 %: ${interval}), top-5 ${percent(top5)} on ${plural(num_videos, 'video')} of ${list}, ${plural(views, 'view')}`;
  });
}

const resultSchema = z.object({ top1: z.number(), top5: z.number(), num_videos: z.number(), views: z.number() });
const fileSchema = z.object({
  list: z.object({ file: z.string() }).nullable(),
  results: z.record(z.string(), z.unknown()),
});
type Found = z.infer<typeof resultSchema> & { list: string };

/** undefined: none, or of another kind; the card does without. */
function readResult(file: string, trial: string): Found | undefined {
  if (!existsSync(file)) return undefined;
  const stored = fileSchema.safeParse(JSON.parse(readFileSync(file, 'utf8')));
  const result = resultSchema.safeParse(stored.data?.results[trial]);
  if (!result.success) return undefined;
  return { ...result.data, list: stored.data?.list == null ? 'generated clips' : basename(stored.data.list.file) };
}
