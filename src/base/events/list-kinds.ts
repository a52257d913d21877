/** The kinds of events of lists of clips. */

import { z } from 'zod';
import { FINDING_CODES, SEVERITIES } from './codes.ts';
import { bytes, count, maybe, plain, seconds, text } from './fields.ts';

const spread = z.object({ least: count, quarter: count, half: count, three_quarters: count, most: count });

export const LISTS = [
  plain('finding', '`check`: one thing found in a list.', {
    code: z.enum(FINDING_CODES),
    severity: z.enum(SEVERITIES).describe('of errors alone the exit code is 2'),
    list: text.describe('file'),
    line: maybe.describe('null: of the whole list'),
    path: text.optional().describe('of the clip'),
    label: count.optional(),
    labels: z.array(count).optional().describe('of data.labels: multi, any number but one'),
    message: text,
    did_you_mean: text.optional().describe('a path that is there'),
    other_list: text.optional().describe('where the same clip stands, too'),
    other_line: count.optional(),
  }),
  plain('probed', '`check --probe`: the clips of a list, before the findings in them.', {
    list: text.describe('file'),
    num_clips: count.describe('that were looked into'),
    num_known: count.describe('of them from an earlier time'),
    num_videos: count.describe('that can be opened'),
    measures: z
      .record(z.enum(['frames', 'seconds', 'rate']), spread)
      .nullable()
      .describe('null: no video can be opened'),
    kinds: z
      .record(z.enum(['size', 'codec', 'container']), z.array(z.tuple([text, count])))
      .describe('how many of each, the most first'),
    num_rotated: count.describe('or mirrored'),
    num_variable_rate: count,
    sampling: z
      .object({
        num_frames: count,
        stride: maybe.describe('null: a frame of each segment'),
        num_views: maybe.describe('null: of a training'),
        span: count.describe('frames from the first to the last of a clip'),
        num_short: count.describe('videos with fewer frames'),
        starts: count.describe('places where a clip of the median video may begin'),
        covered: z.number().describe('share of it that a clip spans'),
      })
      .nullable()
      .describe('null: no configuration says which'),
    seconds,
  }),
  plain('cleaned', '`check --write-clean`.', {
    folder: text.describe('has quarantine.tsv, per-class.tsv and clean.json beside the lists'),
    lists: z.array(
      z.object({
        file: text,
        clean: text,
        num_lines: count,
        num_left_out: count,
        sha256: text.describe('of the clean list'),
      }),
    ),
  }),
  plain('checked', '`check` has ended.', {
    lists: z
      .array(z.object({ file: text, sha256: text.nullable(), size_bytes: bytes, num_lines: count }))
      .describe('of a list that cannot be read `sha256` is null'),
    num_lines: count.describe('clips of all lists'),
    errors: count,
    warnings: count,
    notes: count,
    codes: z.record(z.string(), count).describe('findings by their code'),
    seconds,
  }),
  plain('initialized', '`init`: lists and a configuration are written.', {
    folder: text,
    root: text.describe('folder of the relative paths in the lists'),
    config: text.describe('file'),
    lists: z.record(z.string(), count).describe('clips of train, val, select, test'),
    num_clips: count,
    num_classes: count,
    num_left_out: count.describe('files that stand in no list'),
    decisions: z.record(z.string(), z.array(text)).describe('with their reasons'),
    next: z.array(text).describe('commands'),
  }),
] as const;
