/** Something-Something v2: JSON files with a template for each clip, and one with the labels of the templates. */

import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { explainReadError, showPath, UserError } from '../../../base/errors.ts';
import { quote } from '../../../base/words.ts';
import { type LaidOut, type Layout, type LeftOut, readSide, type Side } from '../layout.ts';
import { readText } from '../table.ts';
import { Videos } from './videos.ts';

const clipsSchema = z.array(z.object({ id: z.union([z.string(), z.number()]), template: z.string().optional() }));
const labelsSchema = z.record(z.string(), z.union([z.string(), z.number()]));

/** `Holding [something] next to [something]` is `Holding something next to something` in the file of labels, mostly. */
const nameTemplate = (template: string): string => template.replace(/[[\]]/g, '').trim();

/** Returns the clips of a folder of annotations. Raises UserError with every clip whose template has no label. */
export function readSsv2(folder: string, videosFolder: string): Layout {
  const { files, labels } = findFiles(folder);
  const classes = readLabels(labels);
  const videos = new Videos(videosFolder);
  const layout: Layout = { root: videos.root, clips: [], leftOut: [], classes, notes: [] };
  const problems: string[] = [];
  for (const { file, side } of files) takeClips(file, side, classes, videos, layout, problems);
  if (problems.length > 0) throw new UserError(problems);
  layout.notes.push(...videos.describe());
  return layout;
}

function findFiles(folder: string): { files: { file: string; side: Side }[]; labels: string } {
  let names: string[];
  try {
    names = readdirSync(folder, { encoding: 'utf8' })
      .filter((name) => name.endsWith('.json'))
      .sort();
  } catch (error) {
    throw new UserError(
      `${showPath(folder)}  ${explainReadError(error, null, 'a folder with the JSON files of the annotations')}`,
    );
  }
  const files = names.flatMap((name) => {
    const side = readSide(name.replace(/\.json$/, '').replace(/^.*[-_]/, ''));
    return side === undefined ? [] : [{ file: join(folder, name), side }];
  });
  const labels = names.find((name) => /labels\.json$/.test(name));
  const missing = [files.length === 0 && 'train.json or validation.json', labels === undefined && 'labels.json'].filter(
    Boolean,
  );
  if (labels === undefined || missing.length > 0)
    throw new UserError(
      `${showPath(folder)}  holds no ${missing.join(' and no ')}, under such names or with a prefix. Found: ${names.join(', ') || 'no JSON file'}.`,
    );
  return { files, labels: join(folder, labels) };
}

function parse<T>(file: string, schema: z.ZodType<T>, wanted: string): T {
  const text = readText(file, wanted);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${showPath(file)}  is no JSON: ${(error as Error).message}. Give ${wanted}.`);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UserError(`${showPath(file)}  entry ${issue?.path.join('.')}: ${issue?.message}. Give ${wanted}.`);
}

/** Returns the names of the classes in the order of their labels, which must be 0, 1, 2 and so on. */
function readLabels(file: string): string[] {
  const entries = Object.entries(parse(file, labelsSchema, 'an object with a label for each template'));
  const names: string[] = [];
  for (const [name, label] of entries) names[Number(label)] = nameTemplate(name);
  const isWhole = names.length === entries.length && Object.keys(names).length === entries.length;
  if (!isWhole) throw new UserError(`${showPath(file)}  its labels are not 0 to ${entries.length - 1}, each once.`);
  return names;
}

function takeClips(
  file: string,
  side: Side,
  classes: string[],
  videos: Videos,
  layout: Layout,
  problems: string[],
): void {
  const known = new Set(classes);
  const answers = side === 'test' ? readAnswers(file) : new Map<string, string>();
  for (const [index, { id, template }] of parse(
    file,
    clipsSchema,
    'an array of objects with id and template',
  ).entries()) {
    const name = template === undefined ? answers.get(String(id)) : nameTemplate(template);
    const place = { list: file, line: null };
    if (name === undefined) {
      layout.leftOut.push({
        code: 'unused',
        path: String(id),
        ...place,
        message: 'has no template, so no label.',
      } satisfies LeftOut);
    } else if (!known.has(name)) {
      problems.push(`${showPath(file)}  entry ${index}, id ${id}: ${quote(name)} has no label in the file of labels.`);
    } else {
      const video = videos.find([String(id)]);
      if (video === undefined) layout.leftOut.push(videos.leaveMissing(String(id), place));
      else layout.clips.push({ path: video, class: name, side, ...place } satisfies LaidOut);
    }
  }
}

/** The labels of the test clips came later, as `id;label` lines in a file of their own. */
function readAnswers(testFile: string): Map<string, string> {
  const file = join(testFile, '..', 'test-answers.csv');
  if (!existsSync(file)) return new Map();
  const lines = readText(file, basename(file))
    .split(/\r?\n/)
    .filter((line) => line.includes(';'));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(';')), line.slice(line.indexOf(';') + 1).trim()]));
}
