/** Every clip of a layout is looked into: what cannot be trained on is left out by name, and copies are found. */

import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { FINDING_CODES } from '../../base/events/codes.ts';
import type { Report } from '../../base/printer.ts';
import type { Stop } from '../../base/process/stop.ts';
import { quote } from '../../base/words.ts';
import { groupSameContent } from '../../data/check/contents.ts';
import type { LaidOut, Layout, LeftOut } from '../../data/layouts/layout.ts';
import { type Part, partOfSeconds } from '../../data/line.ts';
import { probeClips } from '../../data/probe/probe.ts';
import type { Facts } from '../../runtime/probe-replies.ts';

/** How long a clip may take, as `check --probe` has it. */
export const LIMIT_SECONDS = 20;

export interface Examined {
  clips: ExaminedClip[];
  leftOut: LeftOut[];
  /** Clips of one content, by their places among the clips. */
  copies: ExaminedClip[][];
}

export interface ExaminedClip extends LaidOut {
  facts: Facts;
  /** Of the file. */
  id: string;
}

interface FileOfClip {
  size: number;
  mtime: number;
  id: string;
}

interface Seen extends FileOfClip {
  clip: LaidOut;
  path: string;
  part?: Part;
}

/** Returns the clips that can be decoded, with what is known of them; every other one is left out with its reason. */
export async function examineClips(
  { root, clips, leftOut: left }: Layout,
  stop: Stop,
  report: Report,
): Promise<Examined> {
  const leftOut = [...left];
  const seen = clips.flatMap((clip) => lookFor(root, clip, leftOut));
  const facts = new Map<Seen, Facts>();
  await probeClips<Seen>({
    clips: seen,
    rules: { reader: 'pyav', sampling: null, limitSeconds: LIMIT_SECONDS },
    stop,
    tell: (video, probe) => {
      if (probe.facts !== null && (probe.problem === null || probe.problem.fault === 'slow'))
        facts.set(video, probe.facts);
      else
        leftOut.push(leave(video.clip, codeOf(probe.problem?.fault), `${probe.problem?.reason ?? 'cannot be read'}.`));
    },
    progress: (done, total) => report.progress('clips', done, total),
  });
  report.endProgress();
  const examined = seen.flatMap((video) => {
    const known = facts.get(video);
    return known === undefined
      ? []
      : [{ ...video.clip, facts: known, id: video.id, size: video.size, mtime: video.mtime }];
  });
  return leaveTwoLabels(root, examined, leftOut);
}

const leave = ({ path, list, line }: LaidOut, code: LeftOut['code'], message: string): LeftOut => ({
  code,
  path,
  list,
  line,
  message,
});

function codeOf(fault: string | undefined): (typeof FINDING_CODES)[number] {
  return fault === 'missing' || fault === 'empty' || fault === 'not-a-file' || fault === 'not-a-video'
    ? fault
    : 'unreadable';
}

function lookFor(root: string, clip: LaidOut, leftOut: LeftOut[]): Seen[] {
  const path = resolve(root, clip.path);
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) leftOut.push(leave(clip, 'missing', 'is not there. Correct its path, or fetch it again.'));
  else if (!found.isFile()) leftOut.push(leave(clip, 'not-a-file', 'is no file.'));
  else if (found.size === 0) leftOut.push(leave(clip, 'empty', 'is empty. Fetch it again, or remove it.'));
  else
    return [{ clip, path, ...partOf(clip), size: found.size, mtime: found.mtimeMs, id: `${found.dev}:${found.ino}` }];
  return [];
}

const partOf = ({ start, end }: LaidOut): { part?: Part } =>
  start === undefined || end === undefined ? {} : { part: partOfSeconds(start, end) };

/** Of one content in two classes one label is wrong, and nothing here knows which: all of them stay out. */
function leaveTwoLabels(root: string, clips: (ExaminedClip & FileOfClip)[], leftOut: LeftOut[]): Examined {
  const found = clips.map(({ path, id, size, mtime }, line) => ({
    path: resolve(root, path),
    line,
    label: 0,
    id,
    size,
    mtime,
  }));
  const groups = groupSameContent(found).map((same) => same.flatMap(({ line }) => clips[line] ?? []));
  const copies: ExaminedClip[][] = [];
  const conflicting = new Set<ExaminedClip>();
  for (const same of groups) {
    const classes = new Set(same.map((clip) => clip.class));
    if (classes.size === 1) {
      copies.push(same);
      continue;
    }
    for (const clip of same) {
      conflicting.add(clip);
      const other = same.find((one) => one.class !== clip.class);
      const where = `the same content as ${quote(other?.path ?? '')} of class ${quote(other?.class ?? '')}`;
      leftOut.push(leave(clip, 'label-conflict', `is ${where}. Keep one of the ${same.length}.`));
    }
  }
  return { clips: clips.filter((clip) => !conflicting.has(clip)), leftOut, copies };
}
