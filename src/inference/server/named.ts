/** Videos that are named by their path: only below the folders that are allowed. */

import { existsSync, realpathSync, statSync } from 'node:fs';
import { resolve, sep } from 'node:path';
import { readName, type Video } from '../prediction/videos.ts';
import { Refusal, type RefusalCode } from './refusal.ts';

const isBelow = (path: string, root: string): boolean =>
  path === root || path.startsWith(root.endsWith(sep) ? root : root + sep);

/** Returns the video of a path, `PATH` or `PATH#t=START,END`, below the folder `root`, which is a real path. */
export function findNamed(name: string, root: string): Video {
  const full = resolve(root, name);
  const elsewhere = new Refusal('not_allowed', 'is not below the folder that is allowed.', name);
  // Before the disk is asked: it is nobody's business what exists elsewhere.
  if (!isBelow(full, root)) throw elsewhere;
  const video = readName(full);
  if (typeof video === 'string') throw new Refusal(whyNot(full, name), video, name);
  const path = realpathSync(video.path);
  if (!isBelow(path, root)) throw elsewhere;
  if (!statSync(path).isFile()) throw new Refusal('bad_video', 'is no file.', name);
  return { ...video, name, path };
}

function whyNot(full: string, name: string): RefusalCode {
  if (existsSync(full)) return 'bad_video'; // a folder
  return name.includes('#t=') && existsSync(full.slice(0, full.lastIndexOf('#t='))) ? 'not_understood' : 'not_found';
}
