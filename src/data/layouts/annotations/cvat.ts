/** CVAT's exports of a video: "CVAT for images 1.1" (tags of frames, as one class of the video or of its parts) and "CVAT for
 * video 1.1" (tracks, each a part). */

import { SaxesParser, type SaxesTagPlain } from 'saxes';
import { showPath, UserError } from '../../../base/errors.ts';
import { plural, quote } from '../../../base/words.ts';
import type { LaidOut, Layout, LeftOut } from '../layout.ts';
import { framesToTimes, type RowOptions } from '../rows.ts';
import { readText } from '../table.ts';
import { Videos } from './videos.ts';

/** A video with the tags of its frames; frames are those of the video, also where the task has some of them. */
interface Task {
  id: string;
  source: string;
  line: number;
  /** Frames of the video from one frame of the task to the next. */
  step: number;
  /** Frames of the task: as its head says, and those that are listed. */
  size: number;
  numListed: number;
  tags: Tag[];
  /** The tags are those of tracks: each says by itself from when to when. */
  isTracked: boolean;
}

interface Tag {
  frame: number;
  label: string;
  line: number;
}

/** Returns the clips of an export. Raises UserError where it is none, or where frames need a rate. */
export function readCvat({ file, videos: folder, frameRate }: RowOptions): Layout {
  const tasks = parseTasks(file);
  const videos = new Videos(folder);
  const clips: LaidOut[] = [];
  const leftOut: LeftOut[] = [];
  const problems: string[] = [];
  for (const task of tasks) {
    const place = { list: file, line: task.line };
    const path = videos.find([task.source, task.source.split('/').at(-1) ?? '']);
    if (path === undefined) leftOut.push(videos.leaveMissing(task.source, place));
    else if (task.tags.length === 0) leftOut.push({ code: 'unused', path, ...place, message: 'has no tag.' });
    else takeTags(path, task, frameRate, file, { clips, leftOut, problems });
  }
  if (problems.length > 0) throw new UserError(problems);
  return { root: videos.root, clips, leftOut, notes: videos.describe() };
}

interface Taken {
  clips: LaidOut[];
  leftOut: LeftOut[];
  problems: string[];
}

/** One tag in all, or the same one on every frame, is the class of the video; else neighbouring frames of one tag are a part. */
function takeTags(path: string, task: Task, frameRate: number | undefined, list: string, taken: Taken): void {
  const place = { list, line: task.tags[0]?.line ?? task.line };
  const labels = [...new Set(task.tags.map(({ label }) => label))];
  const frames = new Set(task.tags.map(({ frame }) => frame));
  const [only = ''] = labels;
  const numFrames = task.numListed || task.size || Number.POSITIVE_INFINITY;
  if (labels.length === 1 && ((frames.size === 1 && !task.isTracked) || frames.size >= numFrames)) {
    taken.clips.push({ path, class: only, ...place });
    return;
  }
  if (frames.size === 1 && labels.length > 1) {
    const message = `has ${plural(labels.length, 'tag')} on one frame: ${labels.map(quote).join(', ')}. Keep one.`;
    taken.leftOut.push({ code: 'label-conflict', path, ...place, message });
    return;
  }
  if (frameRate === undefined) {
    taken.problems.push(
      `${showPath(list)}:${place.line}  tags of ${task.source} are of some frames. Give --frame-rate, the videos' frames a second.`,
    );
    return;
  }
  for (const { label, from, to, line } of findRuns(task)) {
    const last = to + task.step - 1;
    taken.clips.push({ path, class: label, ...framesToTimes(from, last, frameRate), list, line });
  }
}

function findRuns({ tags, step }: Task): { label: string; from: number; to: number; line: number }[] {
  const runs: { label: string; from: number; to: number; line: number }[] = [];
  const open = new Map<string, (typeof runs)[number]>();
  for (const { frame, label, line } of tags.toSorted((a, b) => a.frame - b.frame)) {
    const run = open.get(label);
    if (run !== undefined && frame <= run.to + step) run.to = Math.max(run.to, frame);
    else {
      const begun = { label, from: frame, to: frame, line };
      open.set(label, begun);
      runs.push(begun);
    }
  }
  return runs;
}

function parseTasks(file: string): Task[] {
  const text = readText(file, "CVAT's annotations.xml");
  const tasks: Task[] = [];
  const parser = new SaxesParser({ xmlns: false });
  const path: string[] = [];
  let words = '';
  let frame = -1;
  let isCvat = false;
  let task: Task | undefined;
  let track: Track | undefined;
  parser.on('opentag', (tag: SaxesTagPlain) => {
    words = '';
    path.push(tag.name);
    const { attributes } = tag;
    const above = path.at(-2) ?? '';
    if (tag.name === 'annotations') isCvat = true;
    else if (['task', 'job'].includes(tag.name) && ['meta', 'tasks'].includes(above)) {
      task = beginTask(parser.line);
      tasks.push(task);
    } else if (tag.name === 'image' || tag.name === 'track') {
      task = tasks.find(({ id }) => id === attributes.task_id) ?? tasks[0];
      if (tag.name === 'track') track = { label: attributes.label ?? '', line: parser.line, shapes: [] };
      else if (task !== undefined) task.numListed += 1;
      frame = Number(attributes.id);
    } else if (tag.name === 'tag' && above === 'image') {
      task?.tags.push({ frame, label: attributes.label ?? '', line: parser.line });
    } else if (above === 'track' && attributes.frame !== undefined)
      track?.shapes.push({ frame: Number(attributes.frame), isOutside: attributes.outside === '1' });
  });
  parser.on('text', (more) => {
    words += more;
  });
  parser.on('closetag', ({ name }) => {
    path.pop();
    if (name === 'track' && task !== undefined && track !== undefined) takeTrack(task, track);
    const isOfTask = ['task', 'job'].includes(path.at(-1) ?? '');
    if (task === undefined || !(isOfTask || path.at(-1) === 'meta')) return;
    if (name === 'id') task.id = words.trim();
    else if (name === 'source') task.source = words.trim();
    else if (name === 'size') task.size = Number(words.trim()) || 0;
    else if (name === 'frame_filter') task.step = Number(/step=(\d+)/.exec(words)?.[1] ?? 1);
  });
  let fault: string | undefined;
  parser.on('error', (error) => {
    fault ??= error.message;
  });
  parser.write(text).close();
  if (fault !== undefined)
    throw new UserError(
      `${showPath(file)}:${fault.replace(/: /, '  ')} Export from CVAT as "CVAT for video 1.1" or "CVAT for images 1.1".`,
    );
  const named = tasks.filter(({ source }) => source !== '');
  if (!isCvat || named.length === 0)
    throw new UserError(
      `${showPath(file)}  names no task with a video. Export a video task from CVAT as "CVAT for video 1.1" or "CVAT for images 1.1".`,
    );
  return named;
}

const beginTask = (line: number): Task => ({
  ...{ id: '', source: '', line, step: 1, size: 0, numListed: 0, tags: [], isTracked: false },
});

/** What is followed through a video, and where it is seen. */
interface Track {
  label: string;
  line: number;
  shapes: { frame: number; isOutside: boolean }[];
}

/** A shape is there until the next one of its track; most exports have one for each frame. */
function takeTrack(task: Task, { label, line, shapes }: Track): void {
  task.isTracked = true;
  const sorted = shapes.toSorted((one, two) => one.frame - two.frame);
  for (const [index, { frame, isOutside }] of sorted.entries()) {
    if (isOutside) continue;
    const end = sorted[index + 1]?.frame ?? frame + task.step;
    for (let seen = frame; seen < end; seen += task.step) task.tags.push({ frame: seen, label, line });
  }
}
