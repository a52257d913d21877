/** Label Studio's export, JSON or JSON-MIN: a choice for each video, or labels of parts of its timeline. */

import { basename } from 'node:path';
import { z } from 'zod';
import { showPath, UserError } from '../../../base/errors.ts';
import { plural, quote } from '../../../base/words.ts';
import type { LaidOut, Layout, LeftOut } from '../layout.ts';
import { framesToTimes, type RowOptions } from '../rows.ts';
import { readText } from '../table.ts';
import { Videos } from './videos.ts';

const names = z.array(z.string());
const range = z.object({ start: z.number(), end: z.number() });
const result = z.looseObject({
  type: z.string().optional(),
  value: z.looseObject({
    choices: names.optional(),
    labels: names.optional(),
    timelinelabels: names.optional(),
    ranges: z.array(range).optional(),
    start: z.number().optional(),
    end: z.number().optional(),
  }),
});
const annotation = z.looseObject({ was_cancelled: z.boolean().optional(), result: z.array(result) });
const task = z.looseObject({
  id: z.union([z.number(), z.string()]).optional(),
  data: z.record(z.string(), z.unknown()).optional(),
  annotations: z.array(annotation).optional(),
  choice: z.union([z.string(), z.object({ choices: names })]).optional(),
});
type Task = z.infer<typeof task>;

/** A class of a clip, or of a part of it: seconds, or frames from 1 on. */
interface Mark {
  name: string;
  part?: { start: number; end: number; isFrames: boolean };
}

/** Returns the clips of an export. Raises UserError where it is none, or where frames need a rate. */
export function readLabelStudio({ file, videos: folder, frameRate }: RowOptions): Layout {
  const tasks = parseTasks(file);
  const videos = new Videos(folder);
  const clips: LaidOut[] = [];
  const leftOut: LeftOut[] = [];
  const problems: string[] = [];
  for (const [index, one] of tasks.entries()) {
    const place = { list: file, line: null };
    const named = `task ${one.id ?? index}`;
    const source = findSource(one);
    if (source === undefined) {
      problems.push(`${showPath(file)}  ${named}: no text in its data names a video.`);
      continue;
    }
    const leave = (code: LeftOut['code'], message: string): void =>
      void leftOut.push({ code, path: source, ...place, message: `${message} (${named})` });
    const video = videos.find(nameSource(source));
    const marks = findMarks(one);
    const whole = [...new Set(marks.filter(({ part }) => part === undefined).map(({ name }) => name))];
    const parts = marks.filter(({ part }) => part !== undefined);
    if (video === undefined) leftOut.push({ ...videos.leaveMissing(source, place) });
    else if (marks.length === 0) leave('unused', 'has no choice and no label of its timeline.');
    else if (parts.length > 0) takeParts(video, parts, frameRate, place, clips, problems);
    else if (whole.length > 1)
      leave('label-conflict', `has ${plural(whole.length, 'choice')}: ${whole.map(quote).join(', ')}. Keep one.`);
    else clips.push({ path: video, class: whole[0] ?? '', ...place });
  }
  if (problems.length > 0) throw new UserError([...new Set(problems)]);
  return { root: videos.root, clips, leftOut, notes: videos.describe() };
}

function parseTasks(file: string): Task[] {
  const text = readText(file, "Label Studio's JSON export");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new UserError(
      `${showPath(file)}  is no JSON: ${(error as Error).message}. Export from Label Studio as JSON or JSON-MIN.`,
    );
  }
  const parsed = z.array(task).safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UserError(
    `${showPath(file)}  entry ${issue?.path.join('.') || 'of the whole'}: ${issue?.message}. Export from Label Studio as JSON or JSON-MIN.`,
  );
}

/** The text of a task's data that names a video: `video`, or any with such an ending. */
function findSource(one: Task): string | undefined {
  const data = one.data ?? one;
  const texts = Object.entries(data).filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  const isVideo = ([, value]: [string, string]): boolean =>
    /\.(mp4|avi|mkv|webm|mov|m4v|mpe?g|ts|wmv|flv)([?#].*)?$/i.test(value);
  return (texts.find(([key, value]) => key === 'video' && value !== '') ?? texts.find(isVideo))?.[1];
}

/** `/data/upload/1/0a1b2c3d-name.mp4` is an uploaded name.mp4, `/data/local-files/?d=dir/name.mp4` one of a local folder. */
function nameSource(source: string): string[] {
  const local = /[?&]d=([^&]*)/.exec(source)?.[1];
  const path = decode(local ?? source.replace(/[?#].*$/, '').replace(/^\w+:\/\/[^/]*\//, ''));
  const name = basename(path);
  const parts = path.split('/').filter((part) => part !== '');
  const tails = parts.map((_, index) => parts.slice(index).join('/')); // the longest first
  return [...tails, name, name.replace(/^[0-9a-f]{8}-/, '')];
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign of the name itself
  }
}

function findMarks(one: Task): Mark[] {
  if (one.choice !== undefined) {
    const choices = typeof one.choice === 'string' ? [one.choice] : one.choice.choices;
    return choices.map((name) => ({ name }));
  }
  const results = (one.annotations ?? [])
    .filter(({ was_cancelled: isSkipped }) => isSkipped !== true)
    .flatMap((each) => each.result);
  return results.flatMap(({ value }): Mark[] => {
    const { choices = [], labels = [], timelinelabels = [], ranges = [], start, end } = value;
    const whole = choices.map((name) => ({ name }));
    const timed = timelinelabels.flatMap((name) => ranges.map((each) => ({ name, part: { ...each, isFrames: true } })));
    if (start === undefined || end === undefined) return [...whole, ...timed];
    return [...whole, ...timed, ...labels.map((name) => ({ name, part: { start, end, isFrames: false } }))];
  });
}

function takeParts(
  path: string,
  marks: Mark[],
  frameRate: number | undefined,
  place: { list: string; line: null },
  clips: LaidOut[],
  problems: string[],
): void {
  for (const { name, part } of marks) {
    if (part === undefined) continue;
    if (part.isFrames && frameRate === undefined) {
      problems.push(
        `${showPath(place.list)}  labels of timelines are in frames. Give --frame-rate, the videos' frames a second.`,
      );
      continue;
    }
    const times = part.isFrames
      ? framesToTimes(part.start - 1, part.end - 1, frameRate ?? 1)
      : { start: part.start, end: part.end };
    clips.push({ path, class: name, ...times, ...place });
  }
}
